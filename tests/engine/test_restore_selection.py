"""What is restored, and where to."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import archives as forge
import pytest
from restoring import plan as planned
from restoring import restore

from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.problems import (
    NO_MATCH,
    STORAGE,
)
from pybak.restore.extract import extract_batch
from pybak.restore.finish import make_folders


class TestSelection:
    """Include and exclude (case 89)."""

    MEMBERS = (
        forge.folder(b"docs", 0o700),
        forge.file(b"docs/a.txt", b"a"), forge.file(b"docs/b.tmp", b"b"),
        forge.folder(b"docs/sub", 0o711), forge.file(b"docs/sub/c.txt", b"c"),
        forge.file(b"src/d.txt", b"d"), forge.file(b"src/[x]*.txt", b"e"),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("include", "exclude", "files"),
        [
            (["*.txt"], [], {"docs/a.txt", "docs/sub/c.txt", "src/d.txt", "src/[x]*.txt"}),
            (["/docs/"], ["*.tmp"], {"docs/a.txt", "docs/sub/c.txt"}),
            ([], ["/docs/"], {"src/d.txt", "src/[x]*.txt"}),
            (["*.txt", "!c.txt"], ["/src/"], {"docs/a.txt"}),
            (["src/\\[x\\]\\*.txt"], [], {"src/[x]*.txt"}),
        ],
    )
    def test_what_is_included_and_not_excluded_is_kept(
        self, zip_path: Path, target: Path, include: list, exclude: list, files: set
    ) -> None:
        archive = forge.write(zip_path, self.MEMBERS, with_manifest=True)
        result = restore(archive, target, include=include, exclude=exclude)
        found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        assert found == files
        assert result.problems == []
        assert result.restored == len(files)

    def test_implied_parents_keep_the_usual_mode_and_time(
        self, zip_path: Path, target: Path
    ) -> None:
        """Only members that were asked for get their metadata (case 90)."""
        archive = forge.write(zip_path, self.MEMBERS, with_manifest=True)
        before = os.umask(0o022)
        try:
            restore(archive, target, include=["c.txt"])
        finally:
            os.umask(before)
        status = (target / "docs/sub").stat()
        assert stat.S_IMODE(status.st_mode) == 0o755
        assert abs(status.st_mtime - time.time()) < 60

    def test_an_include_that_matches_nothing_is_told(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        result = restore(archive, target, include=["*.txt", "nowhere/"], exclude=["/src/"])
        assert result.codes == {"nowhere/": NO_MATCH}
        assert result.restored == 2

    def test_a_bad_pattern_is_refused_by_name(self, zip_path: Path, target: Path) -> None:
        archive = forge.write(zip_path, self.MEMBERS)
        with pytest.raises(PlanError, match="'!' is no pattern"):
            restore(archive, target, include=["!"])


class TestTargets:
    """Where a restore may go (case 88)."""

    def test_a_file_is_no_target(self, zip_path: Path, tmp_path: Path) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        (tmp_path / "file").write_bytes(b"mine")
        for name in ("file", "file/below", "file/below/that"):
            with pytest.raises(PlanError, match="is a file; name a folder"):
                restore(archive, tmp_path / name)
        assert (tmp_path / "file").read_bytes() == b"mine"

    def test_missing_folders_on_the_way_are_made(self, zip_path: Path, tmp_path: Path) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        restore(archive, tmp_path / "a/b/c")
        assert (tmp_path / "a/b/c/f").read_bytes() == b"x"

    def test_the_target_may_be_reached_by_a_link(self, zip_path: Path, tmp_path: Path) -> None:
        """Links in the target's own path were chosen by who named it (case 27)."""
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        (tmp_path / "real").mkdir()
        (tmp_path / "way").symlink_to("real")
        restore(archive, tmp_path / "way")
        assert (tmp_path / "real/f").read_bytes() == b"x"

    def test_the_archive_is_not_replaced_by_its_own_member(self, zip_path: Path) -> None:
        members = [forge.file(b"a.zip", b"x"), forge.file(b"b", b"x")]
        archive = forge.write(zip_path, members)
        whole = zip_path.read_bytes()
        result = restore(archive, zip_path.parent, overwrite="always")
        assert result.codes == {"a.zip": STORAGE}
        assert zip_path.read_bytes() == whole
        assert (zip_path.parent / "b").read_bytes() == b"x"

    def test_a_missing_archive_is_not_found(self, tmp_path: Path, target: Path) -> None:
        with pytest.raises(NotFoundError):
            restore(os.fsencode(tmp_path / "none.zip"), target)
        assert not target.exists()

    def test_an_archive_that_changes_meanwhile_is_refused(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"f", b"x")])
        plan = planned(archive, target, tmp_path, tasks=1)
        make_folders(plan)
        forge.write(zip_path, [forge.file(b"ff", b"x")])
        with pytest.raises(ArchiveError, match="changed while it was restored"):
            extract_batch(plan.batches[0])
