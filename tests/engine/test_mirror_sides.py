"""What can be source and destination of a mirror, and what the destination's disk can keep."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mirroring import assert_mirrored, done, mirror, put

from pybak.errors import NotFoundError, PlanError, StorageError
from pybak.mirror import run
from pybak.mirror.fidelity import Fidelity, fidelity_of
from pybak.mirror.sides import resolve_sides
from pybak.report import SUCCESS, UNCHANGED


@pytest.fixture
def src(tmp_path: Path) -> Path:
    put(tmp_path / "src" / "sub" / "file")
    return tmp_path / "src"


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("src", "src"), ("src", "src/sub"), ("src", "src/new/deep"), ("src/sub", "src"),
        ("src", "link"), ("link", "src/sub"), ("src/sub/file", "src/sub"), ("src", "src/../src"),
    ],
)  # fmt: skip
def test_one_inside_the_other_is_refused(
    src: Path, tmp_path: Path, source: str, destination: str
) -> None:
    (tmp_path / "link").symlink_to(src)
    with pytest.raises(PlanError, match=r"another|outside"):
        resolve_sides(str(tmp_path / source), str(tmp_path / destination))


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_mount_does_not_hide_that_one_is_inside_the_other(src: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if subprocess.run(["mount", "--bind", src, other], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for place in (other, other / "sub"):
            with pytest.raises(PlanError, match="outside"):
                resolve_sides(str(src), str(place))
    finally:
        subprocess.run(["umount", other], check=True)


def test_neighbours_whose_names_begin_alike_are_fine(src: Path, tmp_path: Path) -> None:
    assert mirror(src, tmp_path / "src2").status == SUCCESS


@pytest.mark.parametrize(
    ("source", "destination", "error"),
    [
        ("missing", "dst", NotFoundError), ("src/sub/file/x", "dst", NotFoundError),
        ("src", "file", PlanError), ("src", "file/below", PlanError), ("fifo", "dst", PlanError),
    ],
)  # fmt: skip
def test_what_can_be_no_mirror_is_refused(
    src: Path, tmp_path: Path, source: str, destination: str, error: type[Exception]
) -> None:
    put(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(error):
        resolve_sides(str(tmp_path / source), str(tmp_path / destination))


@pytest.mark.parametrize("address", ["s3://bucket/x", "gs://bucket", "block:mine"])
def test_a_storage_is_refused_with_a_hint(src: Path, tmp_path: Path, address: str) -> None:
    for sides in ((str(src), address), (address, str(tmp_path / "dst"))):
        with pytest.raises(PlanError, match=r"flows/backup\.py.*flows/transfer\.py"):
            resolve_sides(*sides)


def test_links_that_lead_to_the_sides_are_followed(src: Path, tmp_path: Path) -> None:
    (tmp_path / "from").symlink_to(src)
    (tmp_path / "real").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "real")
    mirror(tmp_path / "from", tmp_path / "to")
    assert_mirrored(src, tmp_path / "real")


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_read_only_destination_ends_the_run_at_once(src: Path, tmp_path: Path) -> None:
    target = tmp_path / "ro"
    target.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", target], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match="read-only"):
            mirror(src, target)
    finally:
        subprocess.run(["umount", target], check=True)


def test_the_file_system_is_told_by_its_mount(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 {number} / / rw shared:1 - vfat /dev/sdb1 rw,flush\n")
    kept = fidelity_of(os.fsencode(tmp_path / "not" / "there"), mounts)
    assert (kept.keeps_looks, kept.keeps_links) == (False, False)
    mounts.write_text(f"21 1 {number} / / rw - ext4 /dev/sda1 rw\n22 1 0:1 / /x rw - vfat x rw\n")
    assert fidelity_of(os.fsencode(tmp_path), mounts) == Fidelity()
    assert fidelity_of(os.fsencode(tmp_path), tmp_path / "missing") == Fidelity()


def test_what_a_disk_can_not_keep_is_no_change(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT: one mode for all, no hard links, times to two seconds (case 36)."""
    kept = Fidelity(2_000_000_000, keeps_looks=False, keeps_links=False)
    monkeypatch.setattr(run, "fidelity_of", lambda _path: kept)
    os.link(src / "sub" / "file", src / "other name")
    target = tmp_path / "dst"
    assert done(mirror(src, target)) == {"copied": 2}
    for path in (target, *target.rglob("*")):
        path.chmod(0o777)
        cut = path.stat().st_mtime_ns // 2_000_000_000 * 2_000_000_000
        os.utime(path, ns=(cut, cut))
    assert mirror(src, target).status == UNCHANGED
    put(src / "sub" / "file", mtime_ns=path.stat().st_mtime_ns + 2_000_000_000)
    assert done(mirror(src, target)) == {"updated": 2}
