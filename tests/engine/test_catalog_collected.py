"""Versions that were collected while an archive was made come into the catalog as all others do."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from catalogs import query
from jobs import Job
from sqlalchemy import Connection

from pybak.backup import record
from pybak.catalog.collected import CollectedVersions
from pybak.catalog.failures import CatalogError
from pybak.catalog.rows import COLUMNS
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest import Part, file_line, pack_lines, pieces_line, record_line
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import unpack_lines
from pybak.formats.streams import Piece

NOW = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
DIGEST = "ab" * 32
BATCHES = (
    pieces_line([Piece(10, 20, 30)])
    + file_line(b"d/plain", 5, 1, 2, 3, 0o644, 0, 0, DIGEST)
    + file_line(b"d/no \xff text \\ \xc3\xa4", 7, -1, 2, 1 << 63, 0o600, 4, 5, DIGEST, (0, 512)),
    record_line(b"d", "d", 0, 1 << 70, -(1 << 70), 3, 0o755, 0, 0, dev=1 << 63)
    + record_line(
        b"d/large", "f", 9, 1, 2, 4, 0o644, 0, 0, parts=[Part(9, 8, DIGEST)], changed=True
    )
    + record_line(b"d/link", "l", 0, 1, 2, 5, 0o777, 0, 0, link=b"plain"),
)  # fmt: skip


def collect(path: Path) -> CollectedVersions:
    collected = CollectedVersions(path)
    for lines in BATCHES:
        collected.add(pack_lines(lines))
    collected.finish()
    return collected


def facts() -> list[FullFact]:
    found = [fact for lines in BATCHES for fact in unpack_lines(pack_lines(lines))]
    return [fact for fact in found if fact.path is not None]


def write(catalog: Catalog, job: str, records: list[FullFact] | CollectedVersions) -> None:
    seq = catalog.begin_run(job, kind="backup", job=job, options={}, now=NOW)
    end = SnapshotEnd(
        run_id=job, job=job, seq=seq, status="success", mode="full", base_run=None, base_seq=None,
        full_run=job, finished_at=NOW, counts={},
    )  # fmt: skip
    archive = StoredArchive(
        name=f"/{job}.tar", format="tar", encrypted=False, members=5, created_at=NOW, volumes=[]
    )
    with catalog.database.transaction() as connection:
        write_snapshot(connection, end, archive, records, [])


def rows(url: str, job: str) -> list[tuple[Any, ...]]:
    names = ", ".join(f"v.{name}" for name in COLUMNS)
    return query(
        url,
        f"SELECT {names}, first_seq, gone_seq, a.content_size FROM file_version v "
        "JOIN job j ON j.id = v.job_id JOIN archive a ON a.id = v.archive_id "
        f"WHERE j.name = '{job}' ORDER BY v.id",
    )


def test_collected_versions_are_what_the_lines_say(any_catalog: str, tmp_path: Path) -> None:
    catalog = Catalog(any_catalog)
    collected = collect(tmp_path / "versions.db")
    write(catalog, "collected", collected)
    write(catalog, "told", facts())
    catalog.close()
    assert len(rows(any_catalog, "told")) == collected.count == 5
    assert rows(any_catalog, "collected") == rows(any_catalog, "told")


def test_versions_collected_in_a_folder_whose_name_is_no_text(
    any_catalog: str, tmp_path: Path
) -> None:
    place = tmp_path / os.fsdecode(b"no \xff text ?%20")
    place.mkdir()
    catalog = Catalog(any_catalog)
    write(catalog, "collected", collect(place / "versions.db"))
    write(catalog, "told", facts())
    catalog.close()
    assert rows(any_catalog, "collected") == rows(any_catalog, "told")
    assert os.listdir(place) == ["versions.db"]


def test_two_collections_can_be_written_over_one_connection(
    any_catalog: str, tmp_path: Path
) -> None:
    catalog = Catalog(any_catalog)
    for number in range(12):  # SQLite attaches ten at once
        write(catalog, f"job-{number}", collect(tmp_path / f"{number}.db"))
    catalog.close()
    assert all(len(rows(any_catalog, f"job-{number}")) == 5 for number in range(12))


def test_nothing_of_a_collection_is_left_where_the_transaction_fails(
    any_catalog: str, tmp_path: Path
) -> None:
    catalog = Catalog(any_catalog)
    collected = collect(tmp_path / "versions.db")

    def fail() -> None:
        with catalog.database.transaction() as connection:
            collected.copy_to(connection, 1, 1, 1)
            connection.exec_driver_sql("SELECT no_such_column FROM file_version")

    with pytest.raises(CatalogError):
        fail()
    catalog.close()
    assert query(any_catalog, "SELECT count(*) FROM file_version") == [(0,)]


def test_a_collection_that_can_not_be_written_is_not_whole(tmp_path: Path) -> None:
    collected = collect(tmp_path / "missing" / "versions.db")
    assert not collected.is_whole
    assert collected.count == 0


@pytest.mark.parametrize("failure", ["disk", "member"])
def test_a_run_whose_collection_failed_is_recorded_from_its_manifest(
    any_catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    class Failing(CollectedVersions):
        def __init__(self, path: Path) -> None:
            super().__init__(path.parent / "missing" / path.name if failure == "disk" else path)

        def add(self, packed: bytes) -> None:
            super().add(packed)
            self.count -= failure == "member"

        def copy_to(self, *_: object) -> None:
            raise AssertionError("not whole")

    monkeypatch.setattr(record, "CollectedVersions", Failing)
    job = Job(tmp_path, catalog_url=any_catalog)
    (job.source / "a").write_text("text")
    made = job.run("full")
    assert made.report.status == "success"
    assert b"a" in {name.rpartition(b"/")[2] for name, *_ in names(job)}


def names(job: Job) -> list[tuple[bytes, int, bool]]:
    with job.history() as history:
        return list(history.names(job.snapshots[-1]))


def test_a_collection_is_what_a_run_is_recorded_from(
    any_catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    real = CollectedVersions.copy_to

    def note(self: CollectedVersions, connection: Connection, *where: int) -> None:
        copied.append(self.count)
        real(self, connection, *where)

    monkeypatch.setattr(CollectedVersions, "copy_to", note)
    job = Job(tmp_path, catalog_url=any_catalog)
    (job.source / "a").write_text("text")
    job.run("full")
    (job.source / "b").write_text("more")
    job.run("incremental")
    assert copied == [2], "a run that is compared collects nothing"
    report, folder = job.restore(job.snapshots[-1].run_id)
    assert report.status == "success"
    assert (folder / "b").read_text() == "more"
