"""A restore as the flow drives it."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import partial
from pathlib import Path

import archives as forge
import pytest
from restoring import expected, tree

from pybak import read_run as run_module
from pybak.errors import ArchiveError, Interrupted, PlanError
from pybak.formats.archive import Limits
from pybak.options import RestoreOptions
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.run import RestoreRun
from pybak.staging import WorkFolder


class TestRuns:
    """A restore as the flow drives it."""

    MEMBERS = (
        forge.folder(b"d", 0o555),
        forge.file(b"d/f", b"x"),
        forge.link(b"d/l", b"f"),
        forge.folder(b"d/sub", 0o500),
        forge.file(b"d/sub/f", b"x"),
    )

    @pytest.fixture(autouse=True)
    def scratch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "scratch"
        path.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        return path

    def run(self, zip_path: Path, target: Path | str, **options: object) -> RestoreRun:
        return RestoreRun(zip_path, str(target), RestoreOptions(**options))

    def test_folders_get_their_modes_back_when_it_is_stopped(
        self, zip_path: Path, target: Path
    ) -> None:
        """Those that were there and were opened for the restore (case 95)."""
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        (target / "d/sub").mkdir(parents=True)
        (target / "d/sub").chmod(0o511)
        (target / "d").chmod(0o577)

        def begin_and_stop() -> None:
            with self.run(zip_path, target, overwrite="always") as run:
                make_folders(run.plan())
                assert (target / "d/sub").stat().st_mode & 0o700 == 0o700
                run.request_cancel()
                run.check_cancelled()

        with pytest.raises(Interrupted):
            begin_and_stop()
        assert stat.S_IMODE((target / "d").stat().st_mode) == 0o577
        assert stat.S_IMODE((target / "d/sub").stat().st_mode) == 0o511

    def test_trouble_after_the_end_changes_no_modes(self, zip_path: Path, target: Path) -> None:
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        (target / "d").mkdir(parents=True)
        (target / "d").chmod(0o511)

        def restore_and_stumble() -> None:
            with self.run(zip_path, target, overwrite="always") as run:
                plan = run.plan()
                make_folders(plan)
                for batch in plan.batches:
                    extract_batch(batch)
                finish(plan)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            restore_and_stumble()
        assert tree(target) == expected(self.MEMBERS)

    def test_the_last_step_hears_a_request_to_stop(self, zip_path: Path, target: Path) -> None:
        """No link is made, and what is not whole is not reported as such (case 95)."""
        forge.write(zip_path, self.MEMBERS, with_manifest=True)
        with self.run(zip_path, target) as run:
            plan = run.plan()
            made = make_folders(plan)
            outcome = finish(plan, should_stop=lambda: True)
            assert outcome.stopped
            assert not (target / "d/l").is_symlink()
            assert stat.S_IMODE((target / "d").stat().st_mode) == 0o700
            with pytest.raises(Interrupted):
                run.report(plan, made, [outcome])

    def test_its_work_folder_goes_and_so_does_a_killed_runs(
        self, zip_path: Path, target: Path, scratch: Path
    ) -> None:
        dead, alive = (WorkFolder.create(scratch, name) for name in ("dead", "alive"))
        os.close(dead._lock_fd)
        forge.write(zip_path, self.MEMBERS)
        with self.run(zip_path, target) as run:
            assert set(scratch.iterdir()) == {alive.path, run.staging}
            run.plan()
        assert list(scratch.iterdir()) == [alive.path]
        alive.remove()

    def test_the_home_of_an_unknown_user_is_no_target(self, zip_path: Path, scratch: Path) -> None:
        """(case 88)"""
        with pytest.raises(PlanError, match="~no-such-user/x"):
            self.run(zip_path, "~no-such-user/x")
        assert list(scratch.iterdir()) == []

    def test_a_dry_run_knows_a_bomb_as_the_restore_does(
        self, zip_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_module, "Limits", partial(Limits, free_size=1000))
        forge.write(zip_path, [forge.file(b"f", bytes(400_000), deflate=True)])
        with self.run(zip_path, target, max_ratio=2.0) as run, pytest.raises(ArchiveError):
            run.rehearse()
        with self.run(zip_path, target, max_ratio=1000.0) as run:
            assert run.rehearse().files.restored == 1
