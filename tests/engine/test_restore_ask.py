"""What a restore is of: an archive by its path, or a snapshot by run, by time, or the latest."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import archives as forge
import pytest
from jobs import Job

from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.models import Run
from pybak.catalog.runs import Catalog
from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
from pybak.errors import LockedError, NotFoundError, PlanError
from pybak.formats.manifest_facts import FullFact
from pybak.home import catalog_url
from pybak.options import RestoreOptions
from pybak.restore.ask import Asked, ask
from pybak.restore.snapshot import Share

BEGIN = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


class Runs:
    """Runs of one job in the catalog, an hour apart, with files in place of archives."""

    def __init__(self, place: Path, job: str = "docs") -> None:
        self.place = place
        self.snapshots: list[Snapshot] = []
        self._job = job
        place.mkdir(exist_ok=True)

    def add(self, *names: str, gone: tuple[str, ...] = (), run_id: str | None = None) -> None:
        """Write a run whose archive holds these; only the first one is full."""
        number = len(self.snapshots) + 1
        base = self.snapshots[-1] if self.snapshots else None
        run_id = run_id or f"{number:04d}{self._job[:4]}-0000"
        now = BEGIN + timedelta(hours=number - 1)
        path = self.place / f"{self._job}-{number}.zip"
        path.touch()
        catalog = Catalog(catalog_url())
        seq = catalog.begin_run(run_id, kind="backup", job=self._job, options={}, now=now)
        end = SnapshotEnd(
            run_id=run_id, job=self._job, seq=seq, status="success",
            mode="incremental" if base else "full", base_run=base.run_id if base else None,
            base_seq=base.seq if base else None, full_run=None, finished_at=now, counts={},
        )  # fmt: skip
        archive = StoredArchive(
            name=str(path), format="zip", encrypted=False, members=len(names), created_at=now,
            volumes=[],
        )  # fmt: skip
        records = [
            FullFact(path=name, type="d" if name == "docs" else "f", sha256="a" * 64)
            for name in names
        ]
        with catalog.database.transaction() as connection:
            write_snapshot(connection, end, archive, records, gone)
        self.snapshots += History(catalog.database).find(run_id)
        catalog.close()


@pytest.fixture
def docs(tmp_path: Path) -> Runs:
    """Three snapshots: a full one, a change, and a file that went."""
    made = Runs(tmp_path / "backups")
    made.add("docs", "docs/a", "docs/b", "docs/raw\udcff")
    made.add("docs/a")
    made.add("docs", gone=("docs/b",))
    return made


def asked(which: str, job: str | None = None, at: str | None = None) -> Asked:
    return ask(which, job=job, at=at, catalog_url=catalog_url())


def taken(found: Asked) -> dict[str, set[bytes]]:
    """Give the names that are taken from each archive, by the archive's name."""
    shares = found.shares(catalog_url(), RestoreOptions())
    assert all(share.trouble is None for share in shares)
    return {os.path.basename(share.archive): set(share.names or ()) for share in shares}


def record(run_id: str, *, job: str = "docs", now: datetime = BEGIN, **end: str | None) -> None:
    """Write a run without a snapshot, as earlier releases did."""
    catalog = Catalog(catalog_url())
    catalog.begin_run(run_id, kind="backup", job=job, options={}, now=now)
    catalog.finish_run(run_id, counts={}, now=now, **end)  # type: ignore[arg-type]
    catalog.close()


class TestSnapshots:
    """Each name from the archive that the catalog says."""

    def test_the_latest_takes_from_each_archive_what_it_still_counts_for(self, docs: Runs) -> None:
        for found in (asked("latest"), asked("latest", job="docs")):
            assert (found.run_id, found.job) == (docs.snapshots[-1].run_id, "docs")
            assert taken(found) == {
                "docs-1.zip": {b"docs/raw\xff"},
                "docs-2.zip": {b"docs/a"},
                "docs-3.zip": {b"docs"},
            }

    def test_names_that_no_pattern_can_take_are_not_asked_for(self, docs: Runs) -> None:
        """Unless it must be known what the snapshot lacks."""
        for pattern in ("a", "/docs/a", "raw?", "*a*"):
            for deletes in (False, True):
                options = RestoreOptions(include=[pattern], delete=deletes)
                shares = asked("latest").shares(catalog_url(), options)
                names = {name for share in shares for name in share.names or ()}
                found = {b"docs/raw\xff"} if "raw" in pattern else {b"docs/a", b"docs/raw\xff"}
                if pattern == "/docs/a":
                    found = {b"docs/a"}
                assert names == (
                    found | {b"docs", b"docs/a", b"docs/raw\xff"} if deletes else found
                )

    def test_archives_come_oldest_first(self, docs: Runs) -> None:
        shares = asked("latest").shares(catalog_url(), RestoreOptions())
        assert [os.path.basename(share.archive) for share in shares] == [
            "docs-1.zip", "docs-2.zip", "docs-3.zip",
        ]  # fmt: skip

    def test_a_run_is_named_by_its_id_or_how_that_begins(self, docs: Runs) -> None:
        run_id = docs.snapshots[0].run_id
        for which in (run_id, run_id[:8]):
            assert taken(asked(which)) == {
                "docs-1.zip": {b"docs", b"docs/a", b"docs/b", b"docs/raw\xff"}
            }
            assert asked(which).name == run_id

    @pytest.mark.parametrize(
        ("minutes", "number"), [(0, 0), (59, 0), (60, 1), (119.9, 1), (120, 2), (100_000, 2)]
    )
    def test_a_time_means_the_newest_that_was_begun_by_then(
        self, docs: Runs, minutes: float, number: int
    ) -> None:
        at = (BEGIN + timedelta(minutes=minutes)).isoformat()
        assert asked("latest", "docs", at).run_id == docs.snapshots[number].run_id

    def test_before_the_first_there_is_none(self, docs: Runs) -> None:
        with pytest.raises(NotFoundError, match=r"no backup is as old as .*; name a later time"):
            asked("latest", "docs", (BEGIN - timedelta(seconds=1)).isoformat())

    def test_a_run_that_found_nothing_new_has_the_snapshot_before_it(self, docs: Runs) -> None:
        record("unchanged-run-1", status="unchanged")
        assert asked("unchanged-run-1").run_id == docs.snapshots[-1].run_id

    def test_an_archive_that_is_gone_is_the_shares_trouble(self, docs: Runs) -> None:
        (docs.place / "docs-2.zip").unlink()
        shares = asked("latest").shares(catalog_url(), RestoreOptions())
        troubles = {os.path.basename(share.archive): share.trouble for share in shares}
        assert isinstance(troubles["docs-2.zip"], NotFoundError)
        assert troubles["docs-1.zip"] is None
        assert shares[1] == Share(
            str(docs.place / "docs-2.zip"), (), frozenset([b"docs/a"]), troubles["docs-2.zip"],
            run_id=docs.snapshots[1].run_id,
        )  # fmt: skip

    def test_one_that_was_removed_meanwhile_is_not_restored_in_part(self, docs: Runs) -> None:
        """What other snapshots hold of it is not all (case 94)."""
        found = asked(docs.snapshots[0].run_id)
        catalog = Catalog(catalog_url())
        with catalog.writing() as session:
            run = session.get(Run, docs.snapshots[0].run_id)
            assert run is not None
            run.is_snapshot = False
            session.add(run)
        catalog.close()
        with pytest.raises(NotFoundError, match="removed just now"):
            found.shares(catalog_url(), RestoreOptions())

    def test_its_archives_can_not_be_removed_meanwhile(self, docs: Runs) -> None:
        """(case 98)"""
        from pybak.catalog.locks import archives_lock

        def remove() -> None:
            with archives_lock("docs", shared=False):
                pass

        found = asked("latest")
        with (
            found.kept(catalog_url()),
            asked("latest").kept(catalog_url()),
            pytest.raises(LockedError),
        ):
            remove()
        remove()

    def test_nor_can_an_archive_that_was_named_by_its_path(
        self, docs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However its folder is named; what no run made is never pruned (case 98)."""
        from pybak.catalog.locks import archives_lock

        (tmp_path / "link").symlink_to(docs.place)
        monkeypatch.chdir(docs.place)
        for path in (str(docs.place / "docs-2.zip"), "./docs-2.zip", f"{tmp_path}/link/docs-2.zip"):
            with asked(path).kept(catalog_url()), pytest.raises(LockedError):  # noqa: SIM117
                with archives_lock("docs", shared=False):
                    pass
        forge.write(tmp_path / "copy.zip", [forge.file(b"f", b"x")])
        with (
            asked(str(tmp_path / "copy.zip")).kept(catalog_url()),
            archives_lock("docs", shared=False),
        ):
            pass


class TestAmbiguity:
    """More than one thing may be meant."""

    def test_several_jobs_are_named(self, docs: Runs) -> None:
        Runs(docs.place, "photos").add("photos/p")
        with pytest.raises(PlanError, match="--job: docs, photos"):
            asked("latest")
        assert taken(asked("latest", "photos")) == {"photos-1.zip": {b"photos/p"}}
        with pytest.raises(NotFoundError, match="known are docs, photos"):
            asked("latest", "music")
        with pytest.raises(PlanError, match="is a run of docs, not of photos"):
            asked(docs.snapshots[0].run_id, "photos")

    def test_several_runs_are_named(self, docs: Runs) -> None:
        for end in "xy":
            docs.add("docs/a", run_id=f"12345678-{end}")
        with pytest.raises(PlanError, match=r"12345678-x, 12345678-y begin like that"):
            asked("12345678")
        assert asked("12345678-x").run_id == "12345678-x"

    def test_fewer_than_eight_characters_name_no_run(self, docs: Runs) -> None:
        with pytest.raises(NotFoundError, match="neither a file nor a known run"):
            asked(docs.snapshots[0].run_id[:7])


class TestArchives:
    """A path beats everything, and is of one time."""

    @pytest.fixture
    def archive(self, zip_path: Path) -> Path:
        forge.write(zip_path, [forge.file(b"f", b"x")])
        return zip_path

    def test_a_path_takes_all_of_the_archive_and_asks_no_catalog(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.db").write_bytes(b"no catalog" * 1000)
        monkeypatch.setenv("PYBAK_CATALOG_URL", f"sqlite:///{tmp_path}/broken.db")
        found = asked(str(archive))
        assert found.shares(catalog_url(), RestoreOptions()) == [
            Share(str(archive), (os.fsencode(archive),))
        ]
        assert found.name == str(archive)
        with found.kept(catalog_url()):
            pass

    def test_a_file_called_like_a_run_or_latest_is_meant(
        self, docs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("latest", docs.snapshots[0].run_id):
            forge.write(tmp_path / name, [forge.file(b"f", b"x")])
            (share,) = asked(name).shares(catalog_url(), RestoreOptions())
            assert share == Share(str(tmp_path / name), (os.fsencode(tmp_path / name),))

    def test_a_time_goes_with_latest_only(self, archive: Path, docs: Runs) -> None:
        for which in (str(archive), docs.snapshots[0].run_id):
            with pytest.raises(PlanError, match=r"--at: .* with --at name latest"):
                asked(which, at=BEGIN.isoformat())

    def test_what_is_missing_is_told_as_a_path(self, docs: Runs) -> None:
        with pytest.raises(NotFoundError, match=r"missing\.zip: no such archive"):
            asked("missing.zip")
        with pytest.raises(NotFoundError, match="no such archive"):
            asked("/nowhere/latest")


class TestEarlierReleases:
    """Their runs have an archive and no snapshot."""

    def test_their_archives_are_restored_as_they_are(self, zip_path: Path) -> None:
        forge.write(zip_path, [forge.file(b"f", b"x")])
        record("11111111-old", status="success", archive=str(zip_path))
        for which in ("latest", "11111111-old"):
            (share,) = asked(which).shares(catalog_url(), RestoreOptions())
            assert (share.names, share.volumes) == (None, (os.fsencode(zip_path),))

    def test_a_run_without_archive_says_how_it_ended(self) -> None:
        record("22222222-old", status="failed")
        with pytest.raises(NotFoundError, match="ended as failed and has no archive"):
            asked("22222222-old")

    def test_a_snapshot_of_the_job_comes_before_them(self, docs: Runs, zip_path: Path) -> None:
        forge.write(zip_path, [forge.file(b"f", b"x")])
        record("33333333-old", status="success", archive=str(zip_path), now=datetime.now(UTC))
        assert asked("latest").run_id == docs.snapshots[-1].run_id


def test_no_backup_at_all_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no backup has been made yet"):
        asked("latest")
    with pytest.raises(NotFoundError, match="no backup of this job"):
        asked("latest", "docs", BEGIN.isoformat())


def test_very_many_patterns_are_no_harm(tmp_path: Path) -> None:
    """A list of files; SQLite takes no statement with a thousand alternatives."""
    job = Job(tmp_path)
    for name in ("kept", "other"):
        (job.source / name).write_text(name)
    job.run()
    include = ["/docs/kept", *(f"/docs/no-{number}" for number in range(1100))]
    report, folder = job.restore(include=include)
    assert report.files.restored == 1
    assert [path.name for path in folder.iterdir()] == ["kept"]
