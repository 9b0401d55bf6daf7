"""Snapshots in the catalog: what is written comes back, whatever runs came before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update
from sqlmodel import col

from pybak.backup.catalog_base import JobHistory
from pybak.catalog.facts import Snapshot
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.lineage import ancestors, rows_by_run
from pybak.catalog.models import Run
from pybak.catalog.removal import mark_deleting
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.formats.manifest import Part
from pybak.formats.manifest_facts import FullFact
from pybak.volumes.model import Volume, VolumePart

MODES = ("incremental", "differential")
T0 = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)


def fact(path: str, content: int = 1, **values: object) -> FullFact:
    given = {"type": "f", "size": content, "mtime_ns": content, "mode": 0o644, "uid": 0, "gid": 0}
    return FullFact(**{"path": path, "sha256": f"{content:064x}", **given, **values})  # type: ignore[arg-type]


class Writer:
    """Writes the runs of one job, one hour apart."""

    def __init__(self, catalog: Catalog, job: str = "docs") -> None:
        self.catalog = catalog
        self.database = catalog.database
        self.history = History(catalog.database)
        self.job = job
        self.runs = 0

    def write(
        self,
        records: Sequence[FullFact],
        *,
        mode: str = "full",
        base: Snapshot | None = None,
        gone: Sequence[str] = (),
        status: str = "success",
        errors: Sequence[tuple[str, str, str]] = (),
        tags: Sequence[str] = (),
    ) -> Snapshot:
        self.runs += 1
        run_id = f"{self.job}-{self.runs:04d}"
        now = T0 + timedelta(hours=self.runs)
        seq = self.catalog.begin_run(run_id, kind="backup", job=self.job, options={}, now=now)
        end = SnapshotEnd(
            run_id=run_id, job=self.job, seq=seq, status=status, mode=mode,
            base_run=base.run_id if base else None, base_seq=base.seq if base else None,
            full_run=(base.full_run or base.run_id) if base else run_id,
            finished_at=now + timedelta(minutes=1), counts={"total": 1}, errors=errors,
            tags=tags,
        )  # fmt: skip
        archive = StoredArchive(
            name=f"/b/{run_id}.zip", format="zip", encrypted=False, members=1,
            created_at=now,
            volumes=[
                Volume(uri=f"file:///b/{run_id}.zip.001", size=7, sha256="a" * 64),
                Volume(uri=f"file:///b/{run_id}.zip.002", size=3,
                       parts=(VolumePart(size=3, sha256="b" * 64),)),
            ],
        )  # fmt: skip
        with self.database.transaction() as connection:
            write_snapshot(connection, end, archive, records, gone)
        (found,) = self.history.find(run_id)
        return found

    def holds(self, snapshot: Snapshot) -> dict[str, int]:
        return {one.path.decode(): one.size for one in self.history.versions(snapshot)}


@pytest.fixture
def writer(any_catalog: str) -> Writer:
    return Writer(Catalog(any_catalog))


def test_a_full_snapshot_holds_what_its_archive_holds(writer: Writer) -> None:
    first = writer.write([fact("d", type="d"), fact("d/a", 1), fact("d/b", 2)])
    second = writer.write([fact("d", type="d"), fact("d/b", 3)])
    assert writer.holds(first) == {"d": 1, "d/a": 1, "d/b": 2}
    assert writer.holds(second) == {"d": 1, "d/b": 3}
    (archive,) = writer.history.archives(second)
    assert (archive.name, archive.size) == ("/b/docs-0002.zip", 10)
    assert [one.uri[-3:] for one in archive.volumes] == ["001", "002"]
    assert archive.volumes[1].parts == ((3, "b" * 64),)


def test_an_incremental_snapshot_is_its_base_and_the_changes(writer: Writer) -> None:
    full = writer.write([fact("a", 1), fact("b", 1), fact("c", 1)])
    second = writer.write([fact("b", 2), fact("n", 2)], mode="incremental", base=full, gone=["c"])
    third = writer.write([fact("c", 3)], mode="incremental", base=second, gone=["a"])
    assert writer.holds(full) == {"a": 1, "b": 1, "c": 1}
    assert writer.holds(second) == {"a": 1, "b": 2, "n": 2}
    assert writer.holds(third) == {"b": 2, "n": 2, "c": 3}
    needed = writer.history.needs([full, second, third])
    numbers = {one.run_id: one.id for one in writer.history.archives_of_job("docs")}
    assert needed[full.run_id] == {numbers[full.run_id]}
    assert needed[third.run_id] == {numbers[second.run_id], numbers[third.run_id]}
    assert [one.run_id for one in writer.history.archives(third)] == ["docs-0002", "docs-0003"]


def test_a_differential_snapshot_goes_back_to_the_full_one(writer: Writer) -> None:
    full = writer.write([fact("a", 1), fact("b", 1), fact("c", 1)])
    writer.write([fact("a", 2), fact("x", 2)], mode="incremental", base=full, gone=["b"])
    # As it can come where folders were unreadable for a while: b is back as it was, a as well.
    third = writer.write([fact("c", 3)], mode="differential", base=full, gone=["x"])
    assert writer.holds(third) == {"a": 1, "b": 1, "c": 3}
    assert [one.run_id for one in writer.history.archives(third)] == ["docs-0001", "docs-0003"]
    fourth = writer.write([fact("a", 4)], mode="incremental", base=third)
    assert writer.holds(fourth) == {"a": 4, "b": 1, "c": 3}
    gone = writer.history.gone_since(full.seq, fourth)
    assert sorted(gone) == [b"x"]


def test_the_time_of_a_snapshot_as_it_is_shown_means_it(writer: Writer) -> None:
    made = writer.write([fact("a")])
    with writer.catalog.writing() as session:
        late = made.started_at + timedelta(microseconds=700_000)
        session.connection().execute(update(Run).values(started_at=late))
    found = writer.history.at("docs", late.replace(microsecond=0))
    assert found is not None
    assert found.run_id == made.run_id
    assert writer.history.at("docs", late - timedelta(microseconds=1)) is None


def test_a_snapshot_is_found_by_time_by_id_and_as_the_newest(writer: Writer) -> None:
    full = writer.write([fact("a")])
    second = writer.write([fact("a", 2)], mode="incremental", base=full, tags=["keep"])
    other = Writer(writer.catalog, "mail")
    other.write([fact("m")], status="partial", errors=[("m/x", "unreadable", "denied")])
    history = writer.history
    assert history.jobs() == ["docs", "mail"]
    assert history.newest("docs") == second
    assert history.newest_full("docs") == full
    assert history.at("docs", T0 + timedelta(hours=1, minutes=59)) == full
    assert history.at("docs", T0) is None
    assert history.find("docs-000") == [full, second]
    assert history.find("docs-%") == []
    assert second.tags == ("keep",)
    assert [one.path for one in history.errors("mail-0001")] == ["m/x"]


def test_names_and_numbers_that_no_database_has_come_back(writer: Writer) -> None:
    odd = ["back\\slash", "new\nline", "\udcff", "\\xff", "ünï", "emoji 🎉", " ", "%s ?"]
    records = [fact(name, inode=2**64 - 1, mtime_ns=2**70, ctime_ns=-(2**70)) for name in odd]
    snapshot = writer.write(records)
    expected = {name.encode("utf-8", "surrogateescape") for name in odd}
    assert {one.path for one in writer.history.versions(snapshot)} == expected
    assert {name for name, *_ in writer.history.names(snapshot)} == expected
    (row,) = [row for row in writer.history.states(snapshot) if row[0] == b"\xff"]
    assert row[3:5] == ((1 << 63) - 1, -(1 << 63) + 1)
    again = writer.write([], mode="incremental", base=snapshot, gone=odd[:4])
    assert {one.path for one in writer.history.versions(again)} == {
        name.encode() for name in odd[4:]
    }


def test_digests_of_large_files_come_back(writer: Writer) -> None:
    parts = [Part(5, 3, "c" * 64), Part(4, 2, "d" * 64)]
    snapshot = writer.write([fact("large", sha256=None, parts=parts), fact("small", 9)])
    ids = {row[0]: row[12] for row in writer.history.states(snapshot)}
    assert writer.history.digests([ids[b"large"], ids[b"small"], 0]) == {
        ids[b"large"]: (None, ((5, "c" * 64), (4, "d" * 64))),
        ids[b"small"]: (f"{9:064x}", ()),
    }


def test_a_run_that_fails_in_the_middle_leaves_the_old_state(writer: Writer) -> None:
    full = writer.write([fact("a"), fact("b")])

    def broken() -> object:
        yield fact("a", 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(broken(), mode="incremental", base=full)  # type: ignore[arg-type]
    assert writer.history.newest("docs") == full
    assert writer.holds(full) == {"a": 1, "b": 1}
    assert len(writer.history.archives_of_job("docs")) == 1


def test_a_run_whose_row_is_gone_leaves_nothing_and_says_so(writer: Writer) -> None:
    """A rebuild may have put a new catalog into the place of the one that the run began in."""
    full = writer.write([fact("a")])
    begin_run = writer.catalog.begin_run

    def begin_and_lose(run_id: str, **words: Any) -> int:
        seq = begin_run(run_id, **words)
        with writer.database.transaction() as connection:
            connection.execute(delete(Run).where(col(Run.run_id) == run_id))
        return seq

    writer.catalog.begin_run = begin_and_lose  # type: ignore[method-assign]
    with pytest.raises(CatalogError, match=r"run docs-0002 any more.* run `python flows/rebuild"):
        writer.write([fact("a", 2)], mode="incremental", base=full)
    assert writer.history.newest("docs") == full
    assert writer.holds(full) == {"a": 1}
    assert len(writer.history.archives_of_job("docs")) == 1


def test_a_snapshot_tells_what_it_goes_back_to_and_whose_archives_hold_it(writer: Writer) -> None:
    full = writer.write([fact("a"), fact("b"), fact("c")])
    second = writer.write([fact("b", 2), fact("\udcff")], mode="incremental", base=full)
    third = writer.write([fact("c", 3)], mode="incremental", base=second)
    writer.write([fact("a", 4)], mode="differential", base=full)
    ids = ["docs-0003", "docs-0002", "docs-0001"]
    assert ancestors(writer.database, third) == ids
    assert ancestors(writer.database, writer.history.snapshots("docs")[-1]) == [
        "docs-0004", "docs-0001",
    ]  # fmt: skip
    assert rows_by_run(writer.database, third) == {
        "docs-0001": 1, "docs-0002": 2, "docs-0003": 1,
    }  # fmt: skip
    names = [b"\xff", b"c", b"new", *(b"%d" % number for number in range(1200)), b"a"]
    assert rows_by_run(writer.database, third, names) == {
        "docs-0001": 1, "docs-0002": 1, "docs-0003": 1,
    }  # fmt: skip
    # Where rows of runs between are missing, whose archives it needs is known all the same.
    with writer.database.transaction() as connection:
        connection.execute(delete(Run).where(col(Run.run_id) == "docs-0002"))
    assert ancestors(writer.database, third) == ids


def test_runs_since_the_full_one_count_also_when_their_snapshots_are_removed(
    writer: Writer,
) -> None:
    full = writer.write([fact("a")])
    second = writer.write([fact("a", 2)], mode="incremental", base=full)
    writer.catalog.begin_run(
        "unfinished", kind="backup", job="docs", options={}, now=T0 + timedelta(days=1)
    )
    (archive,) = writer.history.archives(full)
    mark_deleting(writer.database, "docs", runs=[full.run_id], archives=[archive.id])
    third = writer.write([], mode="incremental", base=second, status="partial")
    (archive,) = writer.history.archives(third)
    assert archive.run_id == second.run_id
    mark_deleting(writer.database, "docs", runs=[second.run_id], archives=[])
    assert [one.run_id for one in writer.history.snapshots("docs")] == [third.run_id]
    base = JobHistory(writer.history, "docs").base("incremental")
    assert base is not None
    assert (base.runs_since_full, base.seq) == (2, third.seq)


def test_the_base_is_the_newest_snapshot_or_the_newest_full_one(writer: Writer) -> None:
    known = JobHistory(writer.history, "docs")
    assert [known.base(mode) for mode in MODES] == [None, None]
    full = writer.write([fact("a")])
    second = writer.write([fact("a", 2)], mode="incremental", base=full)
    bases = [known.base(mode) for mode in MODES]
    assert [base and base.run_id for base in bases] == [second.run_id, full.run_id]


def test_all_versions_of_a_member_are_told(writer: Writer) -> None:
    full = writer.write([fact("a", 1)])
    second = writer.write([fact("a", 2)], mode="incremental", base=full)
    writer.write([], mode="incremental", base=second, gone=["a"])
    found = writer.history.versions_of(b"a")
    assert [(job, one.size, one.first_seq, one.gone_seq) for job, one in found] == [
        ("docs", 1, 1, 2), ("docs", 2, 2, 3),
    ]  # fmt: skip
    assert [one.size for one in writer.history.all_versions("docs")] == [1, 2]


NAMES = st.sampled_from("abcdef")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["full", "incremental", "differential"]),
        st.dictionaries(NAMES, st.integers(1, 99), max_size=6),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(STEPS)
def test_every_snapshot_stays_as_it_was_made(steps: list[tuple[str, dict[str, int]]]) -> None:
    writer = Writer(Catalog("sqlite://"))
    made: list[tuple[Snapshot, dict[str, int]]] = []
    for wanted, tree in steps:
        mode = wanted if made else "full"
        fulls = [pair for pair in made if pair[0].mode == "full"]
        base = None if mode == "full" else made[-1] if mode == "incremental" else fulls[-1]
        known = base[1] if base else {}
        records = [fact(name, size) for name, size in tree.items() if known.get(name) != size]
        gone = sorted(known.keys() - tree.keys())
        if base is not None:
            last = fulls[-1][0]
            gone = sorted(
                {*gone, *(n.decode() for n in writer.history.gone_since(last.seq, made[-1][0]))}
                - tree.keys()
            )
        snapshot = writer.write(records, mode=mode, base=base[0] if base else None, gone=gone)
        made.append((snapshot, tree))
    for snapshot, tree in made:
        assert writer.holds(snapshot) == tree
