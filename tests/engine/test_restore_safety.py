"""Nothing an archive says, and nothing in the target, leads a restore outside."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import archives as forge
import pytest
import tars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from restoring import foretell, restore, tree
from restoring import plan as planned

from pybak import looks
from pybak.errors import ArchiveError, PyBakError
from pybak.folders import Folders
from pybak.formats.archive import Limits, TooLargeError
from pybak.formats.opening import open_archive
from pybak.problems import (
    DAMAGED,
    EXISTS,
    STORAGE,
)
from pybak.restore import choose
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders

CLIMBING = [
    b"../out", b"a/../../out", b"..", b"a/..", b"..\\out", b"a\\..\\..\\out", b"/../out",
    b"./../out", b"a/b/../../../out", b"nul\0byte",
]  # fmt: skip


def test_few_open_folders_are_enough(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    (tmp_path / "x/y").mkdir(parents=True)
    with Folders(os.fsencode(tmp_path), capacity=2) as folders:
        before = len(os.listdir("/dev/fd"))
        for path in (b"a/b/c/d", b"x/y", b"a/b", b"", b"a/b/c/d", b"x", b"a/b/c"):
            fd = folders.fd(path)
            assert os.path.samestat(os.fstat(fd), (tmp_path / os.fsdecode(path)).stat())
            assert len(os.listdir("/dev/fd")) <= before + 2
        with pytest.raises(FileNotFoundError):
            folders.fd(b"a/missing/c")


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("kind", [forge.file, forge.link])
def test_a_member_that_climbs_out_is_refused(
    zip_path: Path, target: Path, name: bytes, kind: Callable[..., forge.Forged]
) -> None:
    """Nothing outside changes, the rest is restored (case 77)."""
    members = [kind(name, b"evil"), forge.file(b"good", b"good")]
    before = tree(zip_path.parent)
    archive = forge.write(zip_path, members)
    result = restore(archive, target)
    assert result.codes == {os.fsdecode(name): DAMAGED}
    assert tree(target).keys() == {b"good"}
    after = tree(zip_path.parent)
    assert after.keys() - before.keys() == {b"a.zip", b"target", b"target/good"}


def test_a_climbing_name_from_dos_is_refused(zip_path: Path, target: Path) -> None:
    """`C:..\\x` is no way out (case 77)."""
    archive = forge.write(zip_path, [forge.file(b"C:..\\out", b"x", flags=0)], made_by=0)
    assert restore(archive, target).failed == 1
    assert tree(target) == {}


def test_absolute_and_untidy_names_are_made_relative(zip_path: Path, target: Path) -> None:
    """A leading slash, `.` and empty components (case 78)."""
    members = [forge.file(b"/etc/a", b"1"), forge.file(b"./b", b"2"), forge.file(b"c//d", b"3")]
    result = restore(forge.write(zip_path, members), target)
    files = {name: entry[2] for name, entry in tree(target).items() if entry[2] is not None}
    assert files == {b"etc/a": b"1", b"b": b"2", b"c/d": b"3"}
    assert result.problems == []


@pytest.mark.parametrize("order", [list, lambda members: list(reversed(members))])
def test_no_file_goes_through_a_link_of_the_archive(
    zip_path: Path, target: Path, tmp_path: Path, order: Callable
) -> None:
    """The victim stays as it is (case 79)."""
    victim = tmp_path / "victim"
    victim.mkdir()
    members = [forge.link(b"way", os.fsencode(victim)), forge.file(b"way/evil", b"evil")]
    result = restore(forge.write(zip_path, order(members)), target)
    assert list(victim.iterdir()) == []
    assert result.codes == {"way": DAMAGED}
    assert (target / "way/evil").read_bytes() == b"evil"
    assert not (target / "way").is_symlink()


@pytest.mark.parametrize("overwrite", ["never", "if-newer", "if-changed", "always"])
def test_a_link_in_the_target_is_no_folder(
    zip_path: Path, target: Path, tmp_path: Path, overwrite: str
) -> None:
    """What lies below is refused by name, the victim untouched (cases 79, 82)."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    os.utime(victim, (1, 1))
    target.mkdir()
    (target / "way").symlink_to(victim)
    members = [
        forge.folder(b"way", 0o777),
        forge.file(b"way/evil", b"x"),
        forge.file(b"way/deep/er", b"x"),
        forge.file(b"ok", b"x"),
    ]
    archive = forge.write(zip_path, members)
    assert foretell(archive, target, overwrite=overwrite) == (1, 0, 2)
    result = restore(archive, target, overwrite=overwrite)
    assert {"way", "way/evil", "way/deep/er"} <= result.codes.keys()
    assert set(result.codes.values()) == {STORAGE}
    assert (result.restored, result.failed) == (1, 2)
    assert list(victim.iterdir()) == []
    assert (stat.S_IMODE(victim.stat().st_mode), victim.stat().st_mtime) == (0o700, 1)


def test_a_link_swapped_in_after_the_folders_were_made_is_not_followed(
    zip_path: Path, target: Path, tmp_path: Path
) -> None:
    """Also between the steps (case 79)."""
    victim = tmp_path / "victim"
    victim.mkdir()
    archive = forge.write(zip_path, [forge.folder(b"d", 0o700), forge.file(b"d/f", b"x")])
    work = tmp_path / "work"
    work.mkdir()
    plan = planned(archive, target, work, tasks=1)
    make_folders(plan)
    (target / "d").rmdir()
    (target / "d").symlink_to(victim)
    outcome = extract_batch(plan.batches[0])
    finish(plan)
    assert (outcome.restored, outcome.failed) == (0, 1)
    assert list(victim.iterdir()) == []
    assert stat.S_IMODE(victim.stat().st_mode) != 0o700


def test_replacing_a_file_leaves_its_other_names_alone(zip_path: Path, target: Path) -> None:
    """A hard link's inode is not written to (cases 81, 82)."""
    target.mkdir()
    (target / "other").write_bytes(b"old")
    (target / "file").hardlink_to(target / "other")
    restore(forge.write(zip_path, [forge.file(b"file", b"new")]), target, overwrite="always")
    assert (target / "file").read_bytes() == b"new"
    assert (target / "other").read_bytes() == b"old"


WHOLE = forge.build(
    [
        forge.folder(b"d"), forge.file(b"d/f", b"abc" * 50, deflate=True),
        forge.link(b"d/l", b"/etc"), forge.file(b"x", b"y" * 30),
    ],
    with_manifest=True,
)  # fmt: skip


positions = st.integers(0, len(WHOLE) - 1)


@settings(
    max_examples=120, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_archives_restore_safely_or_not_at_all(
    tmp_path: Path, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for at, bits in flips:
        data[at] ^= bits
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        base = Path(folder)
        (base / "a.zip").write_bytes(data)
        try:
            result = restore(os.fsencode(base / "a.zip"), base / "t")
        except PyBakError:
            result = None
        assert {path.name for path in base.iterdir()} <= {"a.zip", "t"}
        if result:
            right = {b"abc" * 50, b"y" * 30}
            contents = [
                p.read_bytes() for p in base.rglob("*") if p.is_file() and p.name != "a.zip"
            ]
            manifest = [c for c in contents if c[:2] == b"\x1f\x8b"]  # its name was what was hit
            assert {c for c in contents if c not in manifest} <= right


class TestLimits:
    """What looks like a bomb is refused before anything is written."""

    ZEROS = bytes(3_000_000)

    def archives(self, folder: Path) -> Iterator[bytes]:
        yield forge.write(folder / "a.zip", [forge.file(b"f", self.ZEROS, deflate=True)] * 1)
        for archive_format in tars.FORMATS[1:]:
            data = tars.build([tars.file(b"f", self.ZEROS)], archive_format)
            yield tars.write(folder / f"a.{archive_format}", data)
        plain = tars.tar([tars.file(b"f", self.ZEROS)])
        yield tars.write(folder / "others.tar.gz", gzip.compress(plain))

    def test_by_what_it_unpacks_to(self, tmp_path: Path, target: Path) -> None:
        """Unless a higher ratio is allowed."""
        for archive in self.archives(tmp_path):
            limits = Limits(ratio=20, free_size=1_000_000)
            with pytest.raises(ArchiveError, match="like a bomb"):
                restore(archive, target, limits=limits)
            assert not target.exists()
            limits = Limits(ratio=1e6, free_size=1_000_000)
            assert restore(archive, target, limits=limits).restored == 1
            shutil.rmtree(target)

    @pytest.mark.parametrize("archive_format", ["zip", *tars.FORMATS, "others"])
    def test_by_the_count_of_members(
        self, tmp_path: Path, target: Path, archive_format: str
    ) -> None:
        names = [b"f%d" % number for number in range(9)]
        if archive_format == "zip":
            archive = forge.write(tmp_path / "a", [forge.file(name) for name in names])
        elif archive_format == "others":
            archive = tars.write(tmp_path / "a", tars.tar([tars.file(name) for name in names]))
        else:
            data = tars.build([tars.file(name) for name in names], archive_format)
            archive = tars.write(tmp_path / "a", data)
        with pytest.raises(ArchiveError, match="members"):
            restore(archive, target, limits=Limits(members=8))
        assert not target.exists()
        assert restore(archive, target, limits=Limits(members=40)).restored == 9


class TestHostileTars:
    """The same attacks by tar (cases 77, 78, 79, 82)."""

    @pytest.mark.parametrize("name", [b"../out", b"a/../../out", b"..", b"..\\out"])
    def test_a_member_that_climbs_out_is_refused(
        self, tmp_path: Path, target: Path, name: bytes
    ) -> None:
        members = [tars.file(name, b"evil"), tars.link(name + b"x/..", b"y"), tars.file(b"good")]
        archive = tars.write(tmp_path / "a.tar", tars.tar(members))
        result = restore(archive, target)
        assert (result.restored, result.failed) == (1, 2)
        assert tree(target).keys() == {b"good"}
        assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "target"}

    def test_no_file_goes_through_a_link_of_the_archive(self, tmp_path: Path, target: Path) -> None:
        victim = tmp_path / "victim"
        victim.mkdir()
        members = [
            tars.link(b"way", os.fsencode(victim)), tars.file(b"way/evil", b"evil"),
            tars.hard_link(b"way/evil2", b"way/evil"),
        ]  # fmt: skip
        for archive_format in ("tar", "tar.gz"):
            archive = tars.write(tmp_path / "a", tars.build(members, archive_format))
            result = restore(archive, target)
            assert result.codes["way"] == DAMAGED
            assert list(victim.iterdir()) == []
            assert not (target / "way").is_symlink()

    def test_hard_links_do_not_go_through_links_in_the_target(
        self, tmp_path: Path, target: Path
    ) -> None:
        """Neither where they are made nor where they lead (cases 79, 81)."""
        victim = tmp_path / "victim"
        victim.mkdir()
        (victim / "f").write_bytes(b"mine")
        target.mkdir()
        (target / "way").symlink_to(victim)
        members = [
            tars.file(b"way/f", b"evil"), tars.hard_link(b"g", b"way/f"),
            tars.file(b"h", b"x"), tars.hard_link(b"way/i", b"h"),
        ]  # fmt: skip
        archive = tars.write(tmp_path / "a", tars.build(members, "tar"))
        result = restore(archive, target, overwrite="always")
        assert set(result.codes) == {"way", "way/f", "way/i"}
        assert (target / "g").read_bytes() == b"evil"
        assert [path.name for path in victim.iterdir()] == ["f"]
        assert (victim / "f").read_bytes() == b"mine"


WHOLE_TARS = {
    archive_format: tars.build(
        [
            tars.folder(b"d"), tars.file(b"d/f", b"abc" * 50), tars.link(b"d/l", b"/etc"),
            tars.hard_link(b"d/h", b"d/f"), tars.file(b"x", b"y" * 30),
            tars.file(b"s", b"z" * 512, data_map=((1024, 512),), real_size=4096),
        ],
        archive_format,
    )
    for archive_format in tars.FORMATS
}  # fmt: skip


@settings(
    max_examples=120, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(tars.FORMATS),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=3),
    st.none() | st.integers(1, 1 << 20),
)
def test_damaged_tars_restore_safely_or_not_at_all(
    tmp_path: Path, archive_format: str, flips: list[tuple[int, int]], cut: int | None
) -> None:
    """No file has other content than it should, if the manifest is there to tell (case 60)."""
    data = bytearray(WHOLE_TARS[archive_format])
    for at, bits in flips:
        data[at % len(data)] ^= bits
    if cut is not None:
        del data[cut % len(data) :]
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        base = Path(folder)
        (base / "a").write_bytes(data)
        try:
            result = restore(os.fsencode(base / "a"), base / "t")
        except PyBakError:
            result = None
        assert {path.name for path in base.iterdir()} <= {"a", "t"}
        if result and not result.codes.get(".pybak/manifest.jsonl.gz") and cut is None:
            right = {b"abc" * 50, b"y" * 30, bytes(1024) + b"z" * 512 + bytes(2560)}
            found = {path.read_bytes() for path in (base / "t").rglob("*") if is_plain(path)}
            assert found <= right or not is_ours(data)


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_ours(data: bytes) -> bool:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with open_archive([os.fsencode(file.name)]) as archive:
            return archive.listing(Limits()).has_manifest


OWN_NAME = [
    [forge.folder(b"a.zip"), forge.file(b"a.zip/f", b"x")],
    [forge.file(b"a.zip/sub/f", b"x")],
    [forge.folder(b"a.zip/sub", 0o700)],
    [forge.file(b"a.zip", b"x")],
]


@pytest.mark.parametrize("overwrite", ["if-changed", "always"])
@pytest.mark.parametrize("members", OWN_NAME)
def test_an_archive_never_takes_its_own_place(
    target: Path, members: list[forge.Forged], overwrite: str
) -> None:
    """Restored into its own folder, whatever kind of member has its name (case 88)."""
    target.mkdir()
    archive = forge.write(target / "a.zip", [*members, forge.file(b"good", b"good")])
    before = (target / "a.zip").read_bytes()
    assert foretell(archive, target, overwrite=overwrite)[0] == 1
    result = restore(archive, target, overwrite=overwrite)
    assert (target / "a.zip").read_bytes() == before
    assert (target / "good").read_bytes() == b"good"
    assert result.restored == 1
    assert set(result.codes.values()) == {STORAGE}
    assert {os.fsdecode(member.name.rstrip(b"/")) for member in members} <= result.codes.keys()


@pytest.mark.parametrize("members", OWN_NAME[1:])
def test_nor_does_it_under_another_name_of_it(
    zip_path: Path, target: Path, members: list[forge.Forged]
) -> None:
    """What is removed is looked at, not only what it is called (case 88)."""
    other = zip_path.with_name("other.zip")
    archive = forge.write(other, [*members, forge.file(b"good", b"good")])
    target.mkdir()
    (target / "a.zip").hardlink_to(other)
    assert foretell(archive, target, overwrite="always")[0] == 1
    result = restore(archive, target, overwrite="always")
    assert (target / "a.zip").samefile(other)
    assert result.restored == 1
    assert result.codes["a.zip"] in (STORAGE, EXISTS)


@pytest.mark.parametrize("name", [b"a/" * 1000 + b"f", b"x" * 200 + b"/" + b"y" * 17_000])
@pytest.mark.parametrize("kind", ["file", "hard link"])
def test_an_absurdly_deep_name_is_refused(
    tmp_path: Path, target: Path, name: bytes, kind: str
) -> None:
    """The folders that it names would fill the memory of whoever reads it (case 76)."""
    member = tars.file(name, b"x") if kind == "file" else tars.hard_link(b"l", name)
    archive = tars.write(tmp_path / "a.tar", tars.build([member, tars.file(b"ok", b"x")], "tar"))
    result = restore(archive, target)
    assert tree(target).keys() == {b"ok"}
    assert result.codes == {os.fsdecode(member.name): DAMAGED}


def test_many_deep_names_are_a_bomb(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_MAX_FOLDERS", 10_000)
    names = [b"%d/" % number + b"a/" * 50 + b"f" for number in range(5)]
    archive = tars.write(tmp_path / "a.tar", tars.build(map(tars.file, names), "tar"))
    with pytest.raises(TooLargeError):
        restore(archive, target)
    assert not target.exists()


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_took_the_place_of_a_fifo_keeps_its_mode(tmp_path: Path, what: str) -> None:
    """Between making it and setting its mode (case 79)."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    victim.chmod(0o600)
    swapped = tmp_path / "swapped"
    swapped.symlink_to(victim) if what == "link" else swapped.hardlink_to(victim)
    wanted = looks.Looks(-1, -1, 0o666, forge.NOON, sets_owner=False)
    fd = os.open(tmp_path, os.O_RDONLY)
    real = os.stat
    fifo = os.stat_result((stat.S_IFIFO | 0o600, *real(victim)[1:]))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "stat", lambda *_, **__: fifo)
            notes = looks.dress_named(fd, b"swapped", wanted, None)
    finally:
        os.close(fd)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert "can't be set" in notes[0]


def test_a_fifo_gets_its_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    wanted = looks.Looks(-1, -1, 0o1641, forge.NOON, sets_owner=False)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert looks.dress_named(fd, b"fifo", wanted, None) == []
    finally:
        os.close(fd)
    status = (tmp_path / "fifo").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o1641, forge.NOON)
