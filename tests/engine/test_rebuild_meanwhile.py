"""What other runs do while a rebuild reads is in the new catalog, or the old one stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, noise
from rebuilding import change, make_tree, rows_of
from recorded import Recorded
from storage.memory import MemoryStorage, use_also
from transferring import places_of, transfer

from pybak.catalog.locks import archives_lock, job_lock
from pybak.errors import LockedError, NotFoundError
from pybak.options.prune import PruneOptions
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild import run as rebuild_run
from pybak.rebuild.order import Step
from pybak.rebuild.run import RebuildRun
from pybak.report.rebuild import RebuildReport
from pybak.retention.run import PruneRun
from pybak.volumes.model import Volume


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def made(tmp_path: Path, url: str) -> Recorded:
    """Make a full run and two that build on it."""
    tree = make_tree(tmp_path)
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    for number in (1, 2):
        change(tree, number)
        made.back_up(tree)
    return made


def nothing() -> None:
    """Leave all as it is."""


class Settling:
    """A rebuild as the flow does it, with something that happens while it reads.

    `told` has how many files were read in each round.
    """

    def __init__(self, url: str, *places: str | Path, **options: Any) -> None:
        self.url, self.places, self.options = url, places, options
        self.told: list[int] = []

    def rebuild(
        self,
        before: Callable[[], object] = nothing,
        after: Callable[[], object] = nothing,
        locked: Callable[[], object] = nothing,
        password: bytes | None = None,
    ) -> RebuildReport:
        """Do `before` before the archives are read for the first time, `after` each such time."""
        with self._run() as run:

            def describe(steps: list[Step]) -> dict[bytes, Volume]:
                if not self.told:
                    before()
                self.told.append(run.files(steps))
                volumes = run.describe(steps)
                after()
                return volumes

            with run.settled(lambda: run.read(password), describe) as (steps, volumes):
                locked()
                run.write(steps, volumes)
            return run.report(steps, volumes)

    @contextmanager
    def _run(self) -> Iterator[RebuildRun]:
        places = [os.fspath(place) for place in self.places]
        with RebuildRun(places, RebuildOptions(**self.options), catalog_url=self.url) as run:
            yield run


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Do it the first time only."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


def prune(url: str) -> None:
    with PruneRun(PruneOptions(keep_last=1), catalog_url=url) as run, run.locked("docs", print):
        assert run.report([run.prune(run.plan("docs"))]).status == "success"


def back_up_again(made: Recorded, **how: Any) -> None:
    tree = made.to.parent / "docs"
    (tree / f"later {len(made.outcomes)}").write_bytes(noise(700, len(made.outcomes)))
    made.back_up(tree, **how)


@pytest.mark.parametrize(
    "how", [{}, {"password": PASSWORD, "mode": "full"}], ids=["plain", "encrypted"]
)
def test_a_backup_that_is_made_while_archives_are_read_is_recorded(
    made: Recorded, url: str, how: dict[str, Any]
) -> None:
    rebuild = Settling(url, made.to)
    report = rebuild.rebuild(
        after=once(lambda: back_up_again(made, **how)), password=how.get("password")
    )
    assert (report.status, len(report.runs), report.notes) == ("success", 4, ())
    assert [one.seq for one in made.snapshots()] == [1, 2, 3, 4]
    assert rebuild.told == [3, 1]  # what was read is not read again
    how.pop("mode", None)
    assert made.back_up(made.to.parent / "docs", **how).report.status == "unchanged"


def test_a_new_job_that_begins_while_archives_are_read_is_recorded(
    made: Recorded, url: str
) -> None:
    other = Recorded(url, made.to, job="other")
    report = Settling(url, made.to).rebuild(
        after=once(lambda: other.back_up(made.to.parent / "docs" / "sub"))
    )
    assert {one.job for one in report.runs} == {"docs", "other"}
    assert len(other.snapshots()) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("digests", [True, False])
def test_an_archive_that_is_moved_while_archives_are_read_is_where_it_is(
    made: Recorded, url: str, tmp_path: Path, when: str, digests: bool
) -> None:
    (tmp_path / "new").mkdir()
    name = str(made.outcomes[1].path)

    def move() -> None:
        assert transfer(url, name, to=tmp_path / "new", move=True).status == "success"

    rebuild = Settling(url, made.to, tmp_path / "new", no_digests=not digests)
    report = rebuild.rebuild(
        before=once(move) if when == "before" else nothing,
        after=once(move) if when == "after" else nothing,
    )
    assert (report.status, report.notes) == ("success", ())
    assert places_of(url)[1] == (str(tmp_path / "new" / os.path.basename(name)),)
    assert [one.seq for one in made.snapshots()] == [1, 2, 3]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_archive_that_is_pruned_while_archives_are_read_is_not_listed(
    made: Recorded, url: str, when: str
) -> None:
    back_up_again(made, mode="full")
    first = str(made.outcomes[0].path)
    report = Settling(url, made.to).rebuild(
        before=once(lambda: prune(url)) if when == "before" else nothing,
        after=once(lambda: prune(url)) if when == "after" else nothing,
    )
    assert (report.status, [one.seq for one in report.runs]) == ("success", [4])
    assert [one.seq for one in made.snapshots()] == [4]
    assert places_of(url) == [(str(made.outcomes[3].path),)]
    (note,) = report.notes
    assert "pruned or moved while archives were read" in note
    assert first in note


def test_a_storage_is_looked_at_again_too(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, far)
    tree = make_tree(tmp_path)
    made = Recorded(url, far.address)
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    first = str(made.outcomes[0].report.archive)

    def happen() -> None:
        change(tree, 2)
        made.back_up(tree)
        transfer(url, first, to=tmp_path / "near", move=True)

    (tmp_path / "near").mkdir()
    rebuild = Settling(url, far.address, tmp_path / "near")
    report = rebuild.rebuild(before=happen)
    assert (report.status, len(report.runs), report.notes) == ("success", 3, ())
    assert places_of(url)[0][0].startswith(str(tmp_path / "near"))
    assert rebuild.told == [2, 2]


def test_the_last_look_is_under_the_locks(made: Recorded, url: str) -> None:
    """However often a schedule runs."""
    rounds: list[int] = []

    def schedule() -> None:
        rounds.append(1)
        try:
            with job_lock("docs", catalog_url=url):
                back_up_again(made)
        except LockedError:
            rounds.pop()

    report = Settling(url, made.to).rebuild(after=schedule)
    assert len(rounds) > 1
    assert [one.seq for one in report.runs] == list(range(1, len(rounds) + 4))
    assert report.status == "success"


def test_what_never_settles_leaves_the_catalog_as_it_was(made: Recorded, url: str) -> None:
    path = made.outcomes[0].path
    before = rows_of(url)

    def touch() -> None:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))

    rebuild = Settling(url, made.to)
    with pytest.raises(LockedError, match=f"came or went meanwhile: {path}; run it again") as told:
        rebuild.rebuild(after=touch)
    assert told.value.exit_code == 11
    assert rows_of(url) == before
    assert len(rebuild.told) < 9


@pytest.mark.parametrize("what", ["backup", "move", "prune"])
def test_what_was_read_before_is_not_written(
    made: Recorded, url: str, tmp_path: Path, what: str
) -> None:
    """Where nobody looks again, the catalog stays the old one."""
    back_up_again(made, mode="full")
    with RebuildRun([str(made.to)], RebuildOptions(), catalog_url=url) as run:
        steps = run.read()
        volumes = run.describe(steps)
        if what == "backup":
            back_up_again(made)
        elif what == "prune":
            prune(url)
        else:
            transfer(url, str(made.outcomes[3].path), to=tmp_path / "new", move=True)
        before = rows_of(url)
        with pytest.raises(LockedError, match="archives came or went meanwhile"):
            run.write(steps, volumes)
    assert rows_of(url) == before


@pytest.mark.parametrize("server", [False, True], ids=["sqlite", "postgresql"])
def test_what_comes_while_the_catalog_is_written_stops_it(
    tmp_path: Path, url: str, server: bool, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Such as a copy that somebody makes by hand, or a job that nobody knew of."""
    url = request.getfixturevalue("postgres_url") if server else url
    made = Recorded(url, tmp_path / "to")
    path = made.back_up(make_tree(tmp_path)).path
    before = rows_of(url)
    write = rebuild_run.write_step  # type: ignore[attr-defined]

    def copying(*words: Any) -> str | None:
        (made.to / "copy.zip").write_bytes(path.read_bytes())
        return write(*words)

    monkeypatch.setattr(rebuild_run, "write_step", copying)
    with pytest.raises(LockedError, match=r"copy\.zip"):
        Settling(url, made.to, replace=server).rebuild()
    assert rows_of(url) == before
    if not server:
        assert not [name for name in os.listdir(tmp_path / "home") if ".new-" in name]


def test_nobody_deletes_archives_while_the_catalog_is_written(
    made: Recorded, url: str, tmp_path: Path
) -> None:
    tried: list[str] = []

    def others() -> None:
        with pytest.raises(LockedError):
            prune(url)
        with pytest.raises(LockedError):
            transfer(url, str(made.outcomes[0].path), to=tmp_path / "new", move=True)
        with pytest.raises(LockedError), archives_lock("docs", shared=False, catalog_url=url):
            pass
        with archives_lock("docs", shared=True, catalog_url=url):  # restores go on
            tried.append("restore")

    assert Settling(url, made.to).rebuild(locked=others).status == "success"
    assert tried == ["restore"]
    with archives_lock("docs", shared=False, catalog_url=url):
        pass


def test_other_files_may_change_all_the_time(made: Recorded, url: str) -> None:
    log = made.to / "notes.txt"
    log.write_bytes(b"begun")

    def grow() -> None:
        with log.open("ab") as file:
            file.write(b"more")

    rebuild = Settling(url, made.to)
    assert rebuild.rebuild(after=grow, locked=grow).status == "success"
    assert rebuild.told == [3]


def test_a_catalog_may_lie_beside_its_archives(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/to/catalog.db"
    made = Recorded(url, tmp_path / "to")
    made.back_up(make_tree(tmp_path))
    before = rows_of(url)
    assert Settling(url, made.to).rebuild().status == "success"
    assert rows_of(url) == before


def test_archives_that_are_all_gone_leave_the_catalog_as_it_was(made: Recorded, url: str) -> None:
    """Such as a disk that is taken away."""
    before = rows_of(url)
    with pytest.raises(NotFoundError):
        Settling(url, made.to).rebuild(after=once(lambda: made.to.rename(f"{made.to}-away")))
    assert rows_of(url) == before
