"""Restoring tar archives, ours and those of other programs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import tars
from attributed import acl_text, folder_with_attributes
from restoring import SECOND, as_nobody, foretell, plan, restore, tree

from pybak.attributes import ACL_ACCESS, CAPABILITY, acl_from_text
from pybak.entries import BLOCK_DEVICE, CHAR_DEVICE, FIFO
from pybak.problems import DAMAGED, EXISTS, UNSUPPORTED
from pybak.restore.items import Item, read_batch

BIG = bytes(range(256)) * 256 * 40
formats = pytest.mark.parametrize("archive_format", tars.FORMATS)


MEMBERS = [
    tars.folder(b"s", mtime_ns=tars.NOON - 7),
    tars.folder(b"s/readonly", mode=0o555, mtime_ns=5 * SECOND),
    tars.file(b"s/readonly/child", b"kept", mode=0o400),
    tars.file(b"s/big", BIG, mode=0o600),
    tars.file(b"s/empty", mtime_ns=-(10**18) + 1),
    tars.file(b"s/sticky", b"x", mode=0o1755),
    tars.file(b"s/later", b"x", mtime_ns=9_000_000_000 * SECOND + 42),
    tars.file(b"s/\xff\xfe raw\n", b"x"),
    tars.file(b"s/" + b"n" * 255, b"long"),
    tars.link(b"s/link", b"big"),
    tars.link(b"s/dangling", b"\xff nowhere/" + b"far/" * 40),
]


def expected(members: list[tars.Item]) -> dict[bytes, tuple]:
    kinds = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK}
    return {
        member.name: (
            kinds[member.kind] | member.mode,
            member.mtime_ns,
            {"f": member.data, "d": None, "l": member.link}[member.kind],
        )
        for member in members
    }


@formats
@pytest.mark.parametrize("tasks", [1, 4])
def test_everything_comes_back_as_it_was(
    tmp_path: Path, target: Path, archive_format: str, tasks: int
) -> None:
    """Modes, times in nanoseconds, names byte for byte (cases 2, 14, 17, 18, 19, 20, 26)."""
    archive = tars.write(tmp_path / "a", tars.build(MEMBERS, archive_format, batch=4))
    result = restore(archive, target, tasks=tasks)
    assert (result.problems, result.restored) == ([], 9)
    assert tree(target) == expected(MEMBERS)


@formats
def test_a_batch_is_one_run_of_the_stream(
    tmp_path: Path, target: Path, archive_format: str
) -> None:
    """So that no two workers unpack the same pieces."""
    members = [tars.file(b"f%03d" % number, BIG[:50_000]) for number in range(60)]
    archive = tars.write(tmp_path / "a", tars.build(members, archive_format))
    made = plan(archive, target, tmp_path, tasks=5)
    runs = sorted(
        [item.member.offset for item in read_batch(path, Item)[1]] for path in made.batches
    )
    flat = [offset for run in runs for offset in run]
    assert len(runs) == 5
    assert flat == sorted(flat)
    assert len(flat) == 60


def test_a_stream_without_places_to_start_at_is_one_batch(tmp_path: Path, target: Path) -> None:
    members = [tars.file(b"f%03d" % number, os.urandom(5000)) for number in range(60)]
    path = tmp_path / "a.tar"
    tars.write(path, tars.tar(members))
    subprocess.run(["gzip", path], check=True)
    made = plan(os.fsencode(f"{path}.gz"), target, tmp_path, tasks=5)
    assert len(made.batches) == 1


class TestOthersArchives:
    """What GNU tar makes of a real tree (cases 15, 16, 19, 23, 24, 29, 32, 33, 68)."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        top = tmp_path / "src"
        (top / "a").mkdir(parents=True)
        (top / "a/one").write_bytes(BIG)
        (top / "a/three").hardlink_to(top / "a/one")
        (top / "a/link").symlink_to("one")
        os.mkfifo(top / "fifo", 0o640)
        os.setxattr(top / "a/one", b"user.note", b"\x00\xff")
        os.setxattr(top / "a", b"user.folder", b"yes")
        os.utime(top / "a", ns=(5, 123_456_789 * SECOND + 7))
        return top

    @pytest.mark.parametrize(
        ("suffix", "how"),
        [("tar", []), ("tar.gz", ["-z"]), ("tar.bz2", ["-j"]), ("tar.zst", ["--zstd"])],
    )
    def test_they_come_back(
        self, tmp_path: Path, target: Path, source: Path, suffix: str, how: list[str]
    ) -> None:
        archive = tmp_path / f"a.{suffix}"
        command = ["tar", "-C", tmp_path, "--format=pax", "--xattrs", *how, "-cf", archive, "src"]
        subprocess.run(command, check=True)
        result = restore(os.fsencode(archive), target)
        assert result.problems == []
        assert tree(target / "src") == tree(source)
        assert (target / "src/a/one").stat().st_nlink == 2
        assert os.getxattr(target / "src/a/one", b"user.note") == b"\x00\xff"
        assert os.getxattr(target / "src/a", b"user.folder") == b"yes"

    @pytest.mark.parametrize("kind", ["ustar", "gnu", "v7", "posix"])
    def test_every_dialect_comes_back(
        self, tmp_path: Path, target: Path, source: Path, kind: str
    ) -> None:
        archive = tmp_path / "a.tar"
        command = ["tar", "-C", tmp_path, f"--format={kind}", "--exclude=fifo", "-cf", archive]
        subprocess.run([*command, "src"], check=True)
        assert restore(os.fsencode(archive), target).problems == []
        ours, theirs = tree(target / "src"), tree(source)
        theirs.pop(b"fifo")
        assert {name: row[::2] for name, row in ours.items()} == {
            name: row[::2] for name, row in theirs.items()
        }


def test_an_archive_that_python_makes_with_odd_names_comes_back(
    tmp_path: Path, target: Path
) -> None:
    """Absolute, `./`, `//` (cases 67, 78)."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("/etc/x", "./y", "a//z", "./"):
            info = tarfile.TarInfo(name)
            if name == "./":
                info.type = tarfile.DIRTYPE
            archive.addfile(info)
    result = restore(os.fsencode(path), target)
    assert result.problems == []
    files = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert files == {"etc/x", "y", "a/z"}


def test_an_ordinary_compressed_file_comes_back(tmp_path: Path, target: Path) -> None:
    (tmp_path / "report.csv").write_bytes(BIG)
    subprocess.run(["gzip", tmp_path / "report.csv"], check=True)
    result = restore(os.fsencode(tmp_path / "report.csv.gz"), target)
    assert result.counts == (1, 0, 0)
    assert (target / "report.csv").read_bytes() == BIG


class TestNodes:
    """FIFOs and devices (cases 32, 33)."""

    MEMBERS = (
        tars.Item(b"d/fifo", kind=FIFO, mode=0o640, mtime_ns=7 * SECOND + 3),
        tars.Item(b"d/null", kind=CHAR_DEVICE, mode=0o666, device=(1, 3)),
        tars.Item(b"d/disk", kind=BLOCK_DEVICE, mode=0o660, device=(7, 200)),
        tars.file(b"d/file", b"x"),
    )

    @pytest.mark.needs_root
    def test_root_makes_them_with_owner_mode_and_time(self, tmp_path: Path, target: Path) -> None:
        archive = tars.write(tmp_path / "a", tars.build(self.MEMBERS, "tar"))
        result = restore(archive, target)
        if "can't be made here" in str(result.problems):
            pytest.skip("devices can't be made here")
        assert result.problems == []
        fifo, null, disk = ((target / "d" / name).lstat() for name in ("fifo", "null", "disk"))
        assert stat.S_ISFIFO(fifo.st_mode)
        assert (fifo.st_mtime_ns, fifo.st_uid, fifo.st_gid) == (7 * SECOND + 3, 1000, 100)
        assert (null.st_rdev, disk.st_rdev) == (os.makedev(1, 3), os.makedev(7, 200))
        assert stat.S_ISCHR(null.st_mode)
        assert stat.S_ISBLK(disk.st_mode)
        assert [stat.S_IMODE(one.st_mode) for one in (fifo, null, disk)] == [0o640, 0o666, 0o660]
        assert set(restore(archive, target).codes.values()) == {EXISTS}

    @pytest.mark.needs_root
    def test_others_get_the_fifo_and_are_told_of_the_devices(self, open_dir: Path) -> None:
        archive = tars.write(open_dir / "a", tars.build(self.MEMBERS, "tar"))

        def work() -> None:
            target = open_dir / "t"
            assert foretell(archive, target) == (2, 2, 0)
            result = restore(archive, target)
            assert result.counts == (2, 2, 0)
            assert result.codes == {"d/null": UNSUPPORTED, "d/disk": UNSUPPORTED}
            assert "which only root can make" in result.problems[0].message

        as_nobody(work)


class TestAttributes:
    """What hangs on files beside content and mode (cases 16, 23, 24)."""

    def attributes(self, path: Path) -> dict[str, bytes]:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}

    def test_files_and_folders_get_theirs_and_lose_others(
        self, tmp_path: Path, target: Path
    ) -> None:
        members = [
            tars.folder(b"d", attributes={b"user.a": b"1"}),
            tars.file(b"d/f", b"x", attributes={b"user.b": b"2"}, mode=0o400),
        ]
        archive = tars.write(tmp_path / "a", tars.build(members, "tar.gz"))
        (target / "d").mkdir(parents=True)
        os.setxattr(target / "d", b"user.old", b"3")
        (target / "d/f").write_bytes(b"old")
        os.setxattr(target / "d/f", b"user.old", b"3")
        assert restore(archive, target).problems == []
        assert self.attributes(target / "d") == {"user.a": b"1"}
        assert self.attributes(target / "d/f") == {"user.b": b"2"}
        assert (target / "d").stat().st_mtime_ns == tars.NOON

    @pytest.mark.needs_root
    def test_capabilities_come_with_the_owner_or_not_at_all(
        self, tmp_path: Path, target: Path
    ) -> None:
        """Set after the owner, which would drop them; never given to another owner's program."""
        ping = bytes.fromhex("0100000200200000000000000000000000000000")
        members = [tars.file(b"ping", b"x", mode=0o4755, attributes={CAPABILITY: ping})]
        archive = tars.write(tmp_path / "a", tars.build(members, "tar"))
        restore(archive, target)
        assert self.attributes(target / "ping") == {"security.capability": ping}
        assert stat.S_IMODE((target / "ping").stat().st_mode) == 0o4755
        restore(archive, target, owner="none", overwrite="always")
        assert self.attributes(target / "ping") == {}
        assert stat.S_IMODE((target / "ping").stat().st_mode) == 0o755

    @pytest.mark.needs_tool("setfacl")
    @pytest.mark.parametrize(("mask", "bits"), [("r--", 0o040), ("rwx", 0o070), ("---", 0)])
    @pytest.mark.parametrize("mode", [0o750, 0o2770, 0o705])
    def test_the_mask_of_an_acl_is_the_acls_own(
        self, tmp_path: Path, mask: str, bits: int, mode: int
    ) -> None:
        """Whatever group bits stand in the header: libarchive writes the group's (case 24)."""
        text = f"user::rwx,user:12345:rwx,group::r-x,mask::{mask},other::---".encode()
        acl = {ACL_ACCESS: acl_from_text(text)}
        members = [
            tars.folder(b"d", attributes=acl, mode=mode),
            tars.file(b"d/f", b"x", attributes=acl, mode=mode),
            tars.Item(b"d/p", kind=FIFO, attributes=acl, mode=mode),
        ]
        with folder_with_attributes(tmp_path) as place:
            archive = tars.write(place / "a", tars.tar(members))
            assert restore(archive, place / "t").problems == []
            for name in ("d", "d/f", "d/p"):
                restored = place / "t" / name
                assert f"mask::{mask}" in acl_text(restored)
                if os.geteuid() == 0:
                    assert stat.S_IMODE(restored.stat().st_mode) == mode & ~0o070 | bits
                assert restored.stat().st_mtime_ns == tars.NOON

    def test_the_mode_is_the_headers_where_its_acl_can_not_be_set(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        acl = acl_from_text(b"user::rwx,user:12345:rwx,group::r-x,mask::rwx,other::---")
        members = [
            tars.folder(b"d", attributes={ACL_ACCESS: acl}),
            tars.file(b"d/f", b"x", attributes={ACL_ACCESS: acl}, mode=0o640),
            tars.Item(b"d/p", kind=FIFO, attributes={ACL_ACCESS: acl}, mode=0o640),
        ]

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        monkeypatch.setattr(os, "setxattr", refuse)
        result = restore(tars.write(tmp_path / "a", tars.tar(members)), target)
        assert result.codes == dict.fromkeys(("d", "d/f", "d/p"), UNSUPPORTED)
        for member in members:
            mode = (target / os.fsdecode(member.name)).stat().st_mode
            assert stat.S_IMODE(mode) == member.mode


@formats
def test_one_turned_byte_concerns_few_members(
    tmp_path: Path, target: Path, archive_format: str
) -> None:
    """Those that lie in its piece; all others come back (cases 59, 91)."""
    members = [tars.file(b"f%02d" % number, os.urandom(9000)) for number in range(20)]
    data = bytearray(tars.build(members, archive_format, batch=2))
    data[len(data) // 2] ^= 0x40
    archive = tars.write(tmp_path / "a", bytes(data))
    result = restore(archive, target)
    assert 1 <= result.failed <= 4
    assert set(result.codes.values()) == {DAMAGED}
    assert result.restored + result.failed == 20
    for member in members:
        path = target / os.fsdecode(member.name)
        assert path.exists() == (os.fsdecode(member.name) not in result.codes)
        assert not path.exists() or path.read_bytes() == member.data


@formats
def test_volumes_are_read_as_one(tmp_path: Path, target: Path, archive_format: str) -> None:
    """And damage names the volume (case 60)."""
    data = bytearray(tars.build(MEMBERS, archive_format, level=1))
    paths = []
    for number, at in enumerate(range(0, len(data), 3000), 1):
        paths.append(os.fsencode(tmp_path / f"a.{archive_format}.{number:03d}"))
        Path(os.fsdecode(paths[-1])).write_bytes(data[at : at + 3000])
    assert restore(paths, target).problems == []
    assert tree(target) == expected(MEMBERS)
    broken = tmp_path / f"a.{archive_format}.002"
    broken.write_bytes(bytes(len(broken.read_bytes())))
    result = restore(paths, target, overwrite="always")
    assert result.failed
    assert any(f"a.{archive_format}.002" in one.message for one in result.problems)
