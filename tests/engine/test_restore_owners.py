"""Ownership, and the bits that depend on it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import archives as forge
import pytest
import tars
from restoring import as_nobody, restore

from pybak.formats import zip_records as zr
from pybak.problems import (
    STORAGE,
    UNSUPPORTED,
)
from pybak.restore import owners as owners_module


class TestOwners:
    """Ownership and the bits that depend on it."""

    def test_root_restores_owners_and_set_id_bits(self, zip_path: Path, target: Path) -> None:
        """Numbers, also those nobody has here (cases 16, 21)."""
        if os.geteuid() != 0:
            pytest.skip("needs root")
        members = [
            forge.folder(b"d", 0o2775, uid=1234, gid=4321),
            forge.file(b"d/suid", b"x", 0o4755, uid=77_777, gid=88_888),
            forge.file(b"d/sgid", b"x", 0o2711, uid=0, gid=5),
            forge.link(b"d/link", b"suid", uid=1234, gid=4321),
        ]
        for how in (True, False):
            shutil.rmtree(target, ignore_errors=True)
            restore(forge.write(zip_path, members, with_manifest=how), target)
            for member in members:
                status = (target / os.fsdecode(member.name)).lstat()
                assert (status.st_uid, status.st_gid) == (member.uid, member.gid)
                assert status.st_mode == member.mode

    def test_without_an_owner_root_drops_set_id_bits(self, zip_path: Path, target: Path) -> None:
        """A stranger's setuid program must not become root's (case 16)."""
        forged = forge.build([forge.file(b"p", b"x", 0o6755)])
        owner = zr.owner_extra(0, 0)
        zip_path.write_bytes(forged.replace(owner[:2], b"\x99\x99", 1))
        restore(os.fsencode(zip_path), target)
        assert stat.S_IMODE((target / "p").stat().st_mode) == 0o755

    def test_an_owner_that_means_nobody_is_no_owner(self, zip_path: Path, target: Path) -> None:
        members = [forge.file(b"p", b"x", 0o4755, uid=0xFFFFFFFF, gid=0)]
        restore(forge.write(zip_path, members, with_manifest=True), target)
        mode = stat.S_IMODE((target / "p").stat().st_mode)
        assert mode == 0o755

    def test_others_get_the_contents_and_their_own_set_id_bits_only(self, open_dir: Path) -> None:
        """Owners are left alone, without a word (cases 16, 22)."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become someone else")
        members = [
            forge.file(b"root", b"x", 0o6755, uid=0, gid=0),
            forge.file(b"mine", b"x", 0o6755, uid=65534, gid=65534),
            forge.folder(b"d", 0o555),
            forge.file(b"d/f", b"x"),
        ]
        archive = forge.write(open_dir / "a.zip", members, with_manifest=True)

        def work() -> None:
            target = open_dir / "t"
            for _ in range(2):  # also over what is there, through a folder of mode 0555
                result = restore(archive, target, overwrite="always")
                assert (result.restored, result.problems) == (3, [])
                assert stat.S_IMODE((target / "root").stat().st_mode) == 0o755
                assert stat.S_IMODE((target / "mine").stat().st_mode) == 0o6755
                assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555

        as_nobody(work)

    def test_a_folder_that_refuses_us_concerns_its_members_only(self, open_dir: Path) -> None:
        """Named, counted, and the rest is restored (case 91)."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become someone else")
        (open_dir / "t/closed").mkdir(parents=True)
        (open_dir / "t").chmod(0o777)
        (open_dir / "t/closed").chmod(0o755)
        members = [forge.file(b"closed/a", b"x"), forge.file(b"b", b"x"), forge.file(b"d/c", b"x")]
        archive = forge.write(open_dir / "a.zip", members)

        def work() -> None:
            result = restore(archive, open_dir / "t")
            assert result.codes == {"closed/a": STORAGE}
            assert "Permission denied" in result.problems[0].message
            assert (result.restored, result.failed) == (2, 1)

        as_nobody(work)


class TestWays:
    """`auto`, `number`, `name`, `none` (cases 16, 21, 22)."""

    MEMBERS = (
        tars.folder(b"d"), tars.file(b"d/f", b"x", mode=0o6755), tars.link(b"d/l", b"f"),
        tars.hard_link(b"d/h", b"d/f"),
    )  # fmt: skip

    def owners(self, target: Path) -> set[tuple[int, int]]:
        paths = [target / "d", *(target / "d").iterdir()]
        return {(path.lstat().st_uid, path.lstat().st_gid) for path in paths}

    @pytest.mark.needs_root
    @pytest.mark.parametrize(
        ("owner", "expected"),
        [("auto", (1000, 100)), ("number", (1000, 100)), ("name", (65533, 100)), ("none", (0, 0))],
    )
    def test_root_gives_files_to(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, owner: str,
        expected: tuple[int, int],
    ) -> None:  # fmt: skip
        """By name where there is one here: the archive says `me`; `us` is nobody."""
        monkeypatch.setattr(owners_module, "_user_id", lambda name: 65533 if name == "me" else None)
        monkeypatch.setattr(owners_module, "_group_id", lambda name: None)
        archive = tars.write(tmp_path / "a", tars.build(self.MEMBERS, "tar.gz"))
        result = restore(archive, target, owner=owner)
        assert result.problems == []
        assert self.owners(target) == {expected}
        mode = stat.S_IMODE((target / "d/f").stat().st_mode)
        assert mode == (0o755 if owner == "none" else 0o6755)

    @pytest.mark.needs_root
    def test_others_ask_and_are_told(self, open_dir: Path) -> None:
        """Contents come back; each refusal is named (case 22)."""
        archive = tars.write(open_dir / "a", tars.build(self.MEMBERS, "tar"))

        def work() -> None:
            for owner, count in (("auto", 0), ("none", 0), ("number", 3)):
                result = restore(archive, open_dir / owner, owner=owner)
                assert result.counts == (3, 0, 0)
                assert set(result.codes.values()) <= {UNSUPPORTED}
                assert len(result.problems) == count, result.problems
                assert self.owners(open_dir / owner) == {(65534, 65534)}

        as_nobody(work)
