"""Any order of edits, runs, prunes and restores: every kept snapshot stays as it was made."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jobs import Job, Tree, seen
from rebuilding import rebuild

FLAT = ["a", "b", "c", "e", "x y"]  # without folders, whose rows keep archives alive
PATHS = st.sampled_from(
    [*FLAT, *FLAT, "d/a", "d/b", "d/e/a", "d/e/b", "ü/\udcff", "d/e/f/g/h", "back\\slash"]
)
MODES = st.sampled_from(["full", "incremental", "incremental", "differential", "differential"])
RULES = st.sampled_from(
    [
        {"keep_last": 1},
        {"keep_last": 3},
        {"keep_last": 2, "keep_tag": ["pin"]},
        {"keep_hourly": 2},
        {"keep_last": 2, "consolidate": True},
    ]
)


class HistoryMachine(RuleBasedStateMachine):
    """A folder that is edited, and what each of its snapshots must be."""

    @initialize(archive_format=st.sampled_from(["zip", "tar", "tar.gz", "tar.zst"]))
    def begin(self, archive_format: str) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="pybak-history-"))
        self.job = Job(self.place)
        self.format = archive_format
        self.states: dict[str, Tree] = {}
        self.content = itertools.count()
        self.pruned: set[str] = set()  # snapshots that a rebuild finds, partial, in what was left

    def teardown(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)

    def _clear(self, path: Path) -> None:
        """Make room for `path`: nothing at it, and folders above it."""
        for above in reversed(path.relative_to(self.job.source).parents[:-1]):
            folder = self.job.source / above
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)

    def _at(self, name: str) -> Path:
        return self.job.source / name

    @rule(name=PATHS, grow=st.booleans())
    def write(self, name: str, grow: bool) -> None:
        path = self._at(name)
        if path.is_symlink() or not path.is_file():
            self._clear(path)
        text = f"{next(self.content):06d}"
        path.write_text(text * 3000 if grow else text)

    @rule(name=PATHS)
    def rewrite_with_the_same_size_and_time(self, name: str) -> None:
        path = self._at(name)
        if path.is_file() and not path.is_symlink():
            before = path.stat()
            data = path.read_bytes()
            path.write_bytes(f"{next(self.content):06d}".encode() * (len(data) // 6))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(name=PATHS)
    def delete(self, name: str) -> None:
        path = self._at(name)
        if os.path.lexists(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @rule(old=PATHS, new=PATHS)
    def move(self, old: str, new: str) -> None:
        source, target = self._at(old), self._at(new)
        if not os.path.lexists(source) or (new + "/").startswith(old + "/"):
            return
        if (old + "/").startswith(new + "/"):
            return
        self._clear(target)
        if os.path.lexists(source):
            os.rename(source, target)

    @rule(old=PATHS, new=PATHS, keeps_times=st.booleans())
    def copy(self, old: str, new: str, keeps_times: bool) -> None:
        source, target = self._at(old), self._at(new)
        if source.is_symlink() or not source.is_file() or (new + "/").startswith(old + "/"):
            return
        kept = self.place / "kept"
        (shutil.copy2 if keeps_times else shutil.copyfile)(source, kept)
        self._clear(target)
        os.rename(kept, target)

    @rule(name=PATHS)
    def touch(self, name: str) -> None:
        path = self._at(name)
        if path.is_file() and not path.is_symlink():
            os.utime(path)

    @rule(name=PATHS, leads_to=PATHS)
    def link(self, name: str, leads_to: str) -> None:
        self._clear(self._at(name))
        os.symlink(leads_to, self._at(name))

    @rule(name=PATHS)
    def make_folder(self, name: str) -> None:
        self._clear(self._at(name))
        self._at(name).mkdir()

    @rule(name=PATHS, other=PATHS)
    def hard_link(self, name: str, other: str) -> None:
        source = self._at(name)
        is_above = (other + "/").startswith(name + "/")
        if is_above or source.is_symlink() or not source.is_file():
            return
        kept = self.place / "kept"
        os.link(source, kept)
        self._clear(self._at(other))
        os.rename(kept, self._at(other))
        if kept.exists():  # both were names of one file already
            kept.unlink()

    @rule(name=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def change_mode(self, name: str, mode: int) -> None:
        path = self._at(name)
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)

    @rule(mode=MODES, pinned=st.booleans(), dedupe=st.booleans())
    def back_up(self, mode: str, pinned: bool, dedupe: bool) -> None:
        before = {one.run_id for one in self.job.snapshots}
        tags = ["pin"] if pinned else []
        made = self.job.run(mode, format=self.format, tag=tags, dedupe=dedupe)
        state = seen(self.job.source)
        new = [one for one in self.job.snapshots if one.run_id not in before]
        if made.report.status == "unchanged":
            assert not new
            newest = self.job.snapshots[-1]
            assert _contents(self.states[newest.run_id]) == _contents(state)
        else:
            assert made.report.status == "success", made.report.errors
            assert [one.run_id for one in new] == [made.report.run_id]
            self.states[new[0].run_id] = state

    @precondition(lambda self: self.states)
    @rule(rules=RULES, loses_catalog=st.sampled_from([False, False, True]))
    def prune(self, rules: dict[str, object], loses_catalog: bool) -> None:
        report = self.job.prune(**rules)
        assert report.status == "success", report
        left = {one.run_id for one in self.job.snapshots}
        assert left
        self.pruned &= left
        self.states = {run: state for run, state in self.states.items() if run in left}
        self._check_rebuilt(goes_on=loses_catalog)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.states)))
        self._check(run_id)

    def _check(self, run_id: str) -> None:
        report, folder = self.job.restore(run_id)
        assert report.status == "success", report.errors
        assert seen(folder) == self.states[run_id]
        shutil.rmtree(folder.parent)

    def _check_rebuilt(self, *, goes_on: bool) -> None:
        """Restore all from a catalog that the archives alone tell of; use it from now on or not."""
        before = self.job.url
        self.job.url = f"sqlite:///{self.place}/rebuilt-{next(self.content)}.db"
        rebuild(self.job.url, self.job.store)
        known = {one.run_id for one in self.job.snapshots}
        assert known >= self.states.keys()
        for run_id in self.states:
            self._check(run_id)
        if goes_on:
            for run_id in known - self.states.keys():
                self.pruned.add(run_id)
        else:
            self.job.url = before

    @invariant()
    def every_snapshot_is_in_the_catalog(self) -> None:
        if hasattr(self, "states"):
            listed = {one.run_id for one in self.job.snapshots}
            assert listed - self.pruned == self.states.keys()

    def final_check(self) -> None:
        """Restore all, from the catalog and from one that the archives alone tell of."""
        for run_id in self.states:
            self._check(run_id)
        if self.states:
            self._check_rebuilt(goes_on=False)


def _contents(tree: Tree) -> dict[bytes, object]:
    """Leave out what alone makes no new archive: the times of folders."""
    return {
        path: found if found.content is not None else found._replace(mtime_ns=0)
        for path, found in tree.items()
    }


class _Checked(HistoryMachine):
    def teardown(self) -> None:
        try:
            if hasattr(self, "states"):
                self.final_check()
        finally:
            super().teardown()


def test_every_snapshot_restores_whatever_happened() -> None:
    run_state_machine_as_test(
        _Checked,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_every_snapshot_restores_whatever_happened_for_long() -> None:
    run_state_machine_as_test(
        _Checked,
        settings=settings(
            max_examples=200,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
