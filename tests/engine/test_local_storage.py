"""Archives in a folder: their names, and how they appear all at once."""

from __future__ import annotations

import errno
import hashlib
import os
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from backing_up import back_up

from pybak.backup.assemble import Assembly
from pybak.errors import PlanError, StorageError
from pybak.storage import local
from pybak.volumes.model import VolumePart

NOON = datetime(2026, 11, 21, 12, 0, 5)  # noqa: DTZ001 - archive names are in local time


def choose(output: str | None = None, to: str | None = None, **more: object) -> local.Destination:
    settings = {"job": None, "now": NOON, "suffix": "zip", "create": True} | more
    return local.choose(output, to, **settings)  # type: ignore[arg-type]


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    path = tmp_path / "unfinished"
    path.write_bytes(b"archive")
    pieces = (b"arch", b"ive")
    parts = [VolumePart(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for data in pieces]
    return Assembly(path, 7, 1, 1, 1, tuple(parts), ())


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (None, "backup_20261121_120005.zip"),
        ("docs", "docs_20261121_120005.zip"),
        ("my docs/2026", "my-docs-2026_20261121_120005.zip"),
        ("../../etc", "etc_20261121_120005.zip"),
        ("..", "backup_20261121_120005.zip"),
        ("tägliche", "tägliche_20261121_120005.zip"),
    ],
)
def test_archives_are_named_by_job_and_time(job: str | None, name: str) -> None:
    """A job's name can't lead out of the folder (case 77)."""
    assert local.default_name(job, NOON, "zip") == name


def test_a_run_knows_its_earlier_archives_by_name(tmp_path: Path) -> None:
    own = ["backup_20261121_120005.zip", "backup_20261121_120005_2.zip",
           "backup_20261121_120005.zip.001"]  # fmt: skip
    other = [
        "backup.zip",
        "docs_20261121_120005.zip",
        "backup_20261121.zip",
        "xbackup_20261121_120005.zip",
    ]
    for name in own + other:
        (tmp_path / name).touch()
    assert sorted(p.name for p in local.own_archives(tmp_path, None, "zip")) == sorted(own)
    assert [p.name for p in local.own_archives(tmp_path, "docs", "zip")] == [other[1]]
    assert local.own_archives(tmp_path / "missing", None, "zip") == []


def test_earlier_archives_in_a_source_are_counted_as_left_out(tmp_path: Path) -> None:
    """The run's own unfinished work is not; another job's archives are files like any other."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "file").write_bytes(b"x")
    first = back_up(src, to=src, job="docs")
    assert first.report.files.excluded == 0
    back_up(src, to=src, job="docs")
    third = back_up(src, to=src, job="docs")
    assert third.report.excluded_by == {"earlier archive of this job": 2}
    assert third.report.files.excluded == 2
    assert set(third.contents) == {"src/", "src/file"}
    other = back_up(src, to=src, job="mail")
    assert other.report.files.excluded == 0
    assert len(other.contents) == 5


def test_a_missing_folder_is_made_and_unmade(tmp_path: Path) -> None:
    place = choose(to=str(tmp_path / "a/b/c"))
    assert place.folder.is_dir()
    place.undo()
    assert os.listdir(tmp_path) == []


def test_folders_that_were_there_or_are_in_use_stay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    place = choose(to=str(tmp_path / "a/b"))
    (tmp_path / "a/b/file").touch()
    place.undo()
    assert (tmp_path / "a/b/file").exists()


def test_a_dry_run_makes_no_folder(tmp_path: Path) -> None:
    choose(to=str(tmp_path / "a"), create=False)
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("there", "dangling"):
        with pytest.raises(StorageError, match="exists already"):
            choose(str(tmp_path / name))
    with pytest.raises(PlanError, match="use --to for a folder"):
        choose(str(tmp_path))
    with pytest.raises(StorageError, match="choose a folder you can write"):
        choose(to=str(tmp_path / "there/below"))


@pytest.mark.parametrize("where", ["s3://bucket/x", "gs://bucket", "block:name"])
def test_other_storages_are_refused_by_name(where: str) -> None:
    with pytest.raises(PlanError, match="only local folders"):
        choose(to=where)


def test_a_taken_default_name_gets_a_number(tmp_path: Path, assembly: Assembly) -> None:
    place = choose(to=str(tmp_path))
    seen = []
    for _ in range(3):
        path, volume = local.publish(assembly, place)
        seen.append(path.name)
        assert (volume.uri, volume.size) == (path.as_uri(), 7)
        assert volume.sha256 == hashlib.sha256(b"archive").hexdigest()
    assert seen == [f"backup_20261121_120005{n}.zip" for n in ("", "_2", "_3")]


def test_the_number_comes_before_the_ending_of_a_job_with_dots(
    tmp_path: Path, assembly: Assembly
) -> None:
    place = choose(to=str(tmp_path), job="v1.2.x")
    names = [local.publish(assembly, place)[0].name for _ in range(2)]
    assert names == ["v1.2.x_20261121_120005.zip", "v1.2.x_20261121_120005_2.zip"]
    assert len(local.own_archives(tmp_path, "v1.2.x", "zip")) == 2


def test_a_job_too_long_for_a_file_name_is_refused_at_once(tmp_path: Path) -> None:
    """Counted in bytes; with an explicit name the job may be of any length."""
    longest = 250 - len("_20261121_120005.zip")
    assert choose(to=str(tmp_path), job="j" * longest).name.startswith("j" * longest)
    for job in ("j" * (longest + 1), "j" * 300, "ä" * 120):
        with pytest.raises(PlanError, match="shorten it"):
            choose(to=str(tmp_path / "sub"), job=job)
    assert os.listdir(tmp_path) == []
    choose(str(tmp_path / "a.zip"), job="j" * 300)


@pytest.mark.parametrize("name", ["x" * 300, "missing/" + "x" * 300, "a\0b"])
def test_places_that_can_not_be_are_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError):
        choose(str(tmp_path / name))
    with pytest.raises(PlanError):
        choose(to=str(tmp_path / name))
    assert os.listdir(tmp_path) == []


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(PlanError, match="whose home"):
        choose("~nosuchuserhere/x.zip")
    with pytest.raises(PlanError, match="whose home"):
        choose(to="~nosuchuserhere/x")


def test_a_fixed_name_that_someone_took_meanwhile_is_refused(
    tmp_path: Path, assembly: Assembly
) -> None:
    place = choose(str(tmp_path / "a.zip"))
    (tmp_path / "a.zip").write_bytes(b"theirs")
    with pytest.raises(StorageError, match="by someone else meanwhile"):
        local.publish(assembly, place)
    assert (tmp_path / "a.zip").read_bytes() == b"theirs"


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 106)"""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    taken = choose(str(tmp_path / "b.zip"))
    path, _ = local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert path.read_bytes() == b"archive"
    (tmp_path / "b.zip").write_bytes(b"theirs")
    assembly.path.write_bytes(b"archive")
    with pytest.raises(StorageError, match="by someone else"):
        local.publish(assembly, taken)
    assert (tmp_path / "b.zip").read_bytes() == b"theirs"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP])
def test_every_way_to_have_no_hard_links_will_do(
    tmp_path: Path, assembly: Assembly, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """(case 106)"""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path, _ = local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert path.read_bytes() == b"archive"


def test_a_move_that_fails_leaves_no_empty_archive(
    tmp_path: Path, assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="not permitted"):
        local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert os.listdir(tmp_path) == ["unfinished"]


@pytest.mark.parametrize("content", [b"archivE", b"Archive"])
def test_a_file_of_other_bytes_than_were_written_is_not_published(
    tmp_path: Path, assembly: Assembly, content: bytes
) -> None:
    assembly.path.write_bytes(content)
    with pytest.raises(StorageError, match="other bytes than were written"):
        local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()


def test_parts_that_do_not_cover_the_file_are_noticed(tmp_path: Path, assembly: Assembly) -> None:
    short = msgspec.structs.replace(assembly, parts=assembly.parts[:1])
    with pytest.raises(StorageError, match="other bytes"):
        local.publish(short, choose(str(tmp_path / "a.zip")))


def test_new_folders_are_brought_to_the_disk(
    tmp_path: Path, assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name is on the disk once the folder that holds it is synced (case 105)."""
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
    local.publish(assembly, choose(to=str(tmp_path / "a/b")))
    folders = (tmp_path, tmp_path / "a", tmp_path / "a/b")
    assert synced == {folder.stat().st_ino for folder in folders}


def test_a_file_of_another_size_than_was_written_is_not_published(
    tmp_path: Path, assembly: Assembly
) -> None:
    assembly.path.write_bytes(b"arch")
    with pytest.raises(StorageError, match="holds 4 bytes, 7 were written"):
        local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()


def test_a_folder_that_can_not_be_synced_is_a_failure(
    tmp_path: Path, assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken away again; a file system that has no such sync is fine (case 105)."""
    number = errno.EIO

    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="input/output error"):
        local.publish(assembly, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()
    number = errno.EINVAL
    assert local.publish(assembly, choose(str(tmp_path / "a.zip")))[0].exists()
