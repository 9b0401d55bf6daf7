"""Archives in a folder: their names, and how they appear all at once."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import back_up

from pybak.errors import PlanError, StorageError
from pybak.staging import remove_leftovers
from pybak.storage import local
from pybak.volumes.model import Volume, VolumePart
from pybak.volumes.write import FinishedVolume

NOON = datetime(2026, 11, 21, 12, 0, 5)  # noqa: DTZ001 - archive names are in local time


def choose(output: str | None = None, to: str | None = None, **more: object) -> local.Destination:
    settings = {"job": None, "now": NOON, "suffix": "zip", "create": True} | more
    return local.choose(output, to, **settings)  # type: ignore[arg-type]


@pytest.fixture
def archive(tmp_path: Path) -> FinishedVolume:
    """Give an archive of one plain file, hashed part by part."""
    path = tmp_path / "unfinished"
    path.write_bytes(b"archive")
    pieces = (b"arch", b"ive")
    parts = [VolumePart(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for data in pieces]
    return FinishedVolume(os.fsencode(path), "", 7, {}, tuple(parts))


def publish(archive: FinishedVolume, place: local.Destination) -> tuple[Path, Volume]:
    """Publish one file; give its name and what is told of it."""
    stored = local.publish([archive], place)
    (volume,) = stored.volumes
    assert stored.checksum_files == ()
    return stored.path, volume


@pytest.fixture
def volumes(tmp_path: Path) -> list[FinishedVolume]:
    """Give three volumes, each hashed as a whole."""
    made = []
    for number in (1, 2, 3):
        path = tmp_path / f"unfinished-{number}"
        path.write_bytes(b"volume %d" % number)
        sums = {
            kind: hashlib.new(kind, path.read_bytes()).hexdigest() for kind in ("sha256", "md5")
        }
        made.append(FinishedVolume(os.fsencode(path), f".{number:03d}", 8, sums))
    return made


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
    own = [
        "backup_20261121_120005.zip", "backup_20261121_120005_2.zip",
        "backup_20261121_120005.zip.001", "backup_20261121_120005.tar.zst",
        "backup_20261121_120005.tar.gz.1234", "backup_20261121_120005_3.tar.bz2.002.zip",
        "backup_20261121_120005.tar.zip", "backup_20261121_120005.zip.sha256",
        "backup_20261121_120005.tar.zst.md5",
    ]  # fmt: skip
    other = [
        "backup.zip",
        "docs_20261121_120005.zip",
        "backup_20261121.zip",
        "xbackup_20261121_120005.zip",
        "backup_20261121_120005.tar.xz",
        "backup_20261121_120005.zip.001.txt",
    ]
    for name in own + other:
        (tmp_path / name).touch()
    assert sorted(p.name for p in local.own_archives(tmp_path, None)) == sorted(own)
    assert [p.name for p in local.own_archives(tmp_path, "docs")] == [other[1]]
    assert local.own_archives(tmp_path / "missing", None) == []


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
    with pytest.raises(StorageError, match="is a file; name a folder, or the archive itself"):
        choose(to=str(tmp_path / "there"))


@pytest.mark.parametrize("where", ["s3://bucket/x", "gs://bucket", "block:name"])
def test_other_storages_are_refused_by_name(where: str) -> None:
    with pytest.raises(PlanError, match="only local folders"):
        choose(to=where)


def test_a_taken_default_name_gets_a_number(tmp_path: Path, archive: FinishedVolume) -> None:
    place = choose(to=str(tmp_path))
    seen = []
    for _ in range(3):
        path, volume = publish(archive, place)
        seen.append(path.name)
        assert (volume.uri, volume.size) == (path.as_uri(), 7)
        assert volume.sha256 == hashlib.sha256(b"archive").hexdigest()
    assert seen == [f"backup_20261121_120005{n}.zip" for n in ("", "_2", "_3")]


def test_the_number_comes_before_the_ending_of_a_job_with_dots(
    tmp_path: Path, archive: FinishedVolume
) -> None:
    place = choose(to=str(tmp_path), job="v1.2.x")
    names = [publish(archive, place)[0].name for _ in range(2)]
    assert names == ["v1.2.x_20261121_120005.zip", "v1.2.x_20261121_120005_2.zip"]
    assert len(local.own_archives(tmp_path, "v1.2.x")) == 2


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
    tmp_path: Path, archive: FinishedVolume
) -> None:
    place = choose(str(tmp_path / "a.zip"))
    (tmp_path / "a.zip").write_bytes(b"theirs")
    with pytest.raises(StorageError, match="by someone else meanwhile"):
        publish(archive, place)
    assert (tmp_path / "a.zip").read_bytes() == b"theirs"


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, archive: FinishedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 106)"""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    taken = choose(str(tmp_path / "b.zip"))
    path, _ = publish(archive, choose(str(tmp_path / "a.zip")))
    assert path.read_bytes() == b"archive"
    (tmp_path / "b.zip").write_bytes(b"theirs")
    archive.path.write_bytes(b"archive")
    with pytest.raises(StorageError, match="by someone else"):
        publish(archive, taken)
    assert (tmp_path / "b.zip").read_bytes() == b"theirs"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP])
def test_every_way_to_have_no_hard_links_will_do(
    tmp_path: Path, archive: FinishedVolume, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """(case 106)"""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path, _ = publish(archive, choose(str(tmp_path / "a.zip")))
    assert path.read_bytes() == b"archive"


def test_a_move_that_fails_leaves_no_empty_archive(
    tmp_path: Path, archive: FinishedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="not permitted"):
        publish(archive, choose(str(tmp_path / "a.zip")))
    assert os.listdir(tmp_path) == ["unfinished"]


@pytest.mark.parametrize("content", [b"archivE", b"Archive"])
def test_a_file_of_other_bytes_than_were_written_is_not_published(
    tmp_path: Path, archive: FinishedVolume, content: bytes
) -> None:
    archive.path.write_bytes(content)
    with pytest.raises(StorageError, match="other bytes than were written"):
        publish(archive, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()


def test_parts_that_do_not_cover_the_file_are_noticed(
    tmp_path: Path, archive: FinishedVolume
) -> None:
    short = msgspec.structs.replace(archive, parts=archive.parts[:1])
    with pytest.raises(StorageError, match="other bytes"):
        publish(short, choose(str(tmp_path / "a.zip")))


def test_new_folders_are_brought_to_the_disk(
    tmp_path: Path, archive: FinishedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name is on the disk once the folder that holds it is synced (case 105)."""
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
    publish(archive, choose(to=str(tmp_path / "a/b")))
    folders = (tmp_path, tmp_path / "a", tmp_path / "a/b")
    assert synced == {folder.stat().st_ino for folder in folders}


def test_a_file_of_another_size_than_was_written_is_not_published(
    tmp_path: Path, archive: FinishedVolume
) -> None:
    archive.path.write_bytes(b"arch")
    with pytest.raises(StorageError, match="holds 4 bytes, 7 were written"):
        publish(archive, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()


def test_a_folder_that_can_not_be_synced_is_a_failure(
    tmp_path: Path, archive: FinishedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken away again; a file system that has no such sync is fine (case 105)."""
    number = errno.EIO

    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="input/output error"):
        publish(archive, choose(str(tmp_path / "a.zip")))
    assert not (tmp_path / "a.zip").exists()
    number = errno.EINVAL
    assert publish(archive, choose(str(tmp_path / "a.zip")))[0].exists()


def test_volumes_get_their_names_and_the_first_one_last(
    tmp_path: Path, volumes: list[FinishedVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set without its first volume is no archive yet."""
    named: list[str] = []
    real = os.link

    def link(source: Path, target: Path) -> None:
        named.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    out = tmp_path / "out"
    stored = local.publish(volumes, choose(str(out / "a.zip")))
    assert named == ["a.zip.003", "a.zip.002", "a.zip.001"]
    assert stored.path == out / "a.zip"
    assert not stored.path.exists()
    assert [volume.uri for volume in stored.volumes] == [
        (out / f"a.zip.00{number}").as_uri() for number in (1, 2, 3)
    ]
    assert [volume.sha256 for volume in stored.volumes] == [v.sums["sha256"] for v in volumes]


@pytest.mark.parametrize("taken", ["a.zip", "a.zip.001", "a.zip.002", "a.zip.003", "a.zip.sha256"])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_if_one_name_is_taken_meanwhile_none_is_given(
    tmp_path: Path, volumes: list[FinishedVolume], taken: str, links: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    place = choose(str(tmp_path / "out/a.zip"))
    (tmp_path / "out" / taken).write_bytes(b"theirs")
    with pytest.raises(StorageError, match="by someone else meanwhile"):
        local.publish(volumes, place, kinds=["sha256"])
    assert os.listdir(tmp_path / "out") == [taken]
    assert (tmp_path / "out" / taken).read_bytes() == b"theirs"


@pytest.mark.parametrize("taken", ["a.zip.002", "a.zip.017", "a.zip.1000", "a.zip.004.zip"])
def test_a_volume_of_an_earlier_set_is_refused_at_once(tmp_path: Path, taken: str) -> None:
    """It would be taken for one of ours, or be in the way when all is done."""
    (tmp_path / taken).write_bytes(b"theirs")
    with pytest.raises(StorageError, match=f"{taken}: exists already"):
        choose(str(tmp_path / "a.zip"), is_split=True)
    choose(str(tmp_path / "a.zip"))
    choose(str(tmp_path / "b.zip"), is_split=True)


def test_a_default_name_gets_its_number_before_work_begins(tmp_path: Path) -> None:
    """What is inside an encrypted volume is named like it."""
    first = choose(to=str(tmp_path), taken=[".001.zip"])
    (tmp_path / f"{first.name}.001.zip").touch()
    second = choose(to=str(tmp_path), taken=[".001.zip"])
    assert second.name == "backup_20261121_120005_2.zip"
    (tmp_path / f"{second.name}.001.zip").touch()
    assert choose(to=str(tmp_path), taken=[".001.zip"]).name == "backup_20261121_120005_3.zip"
    assert choose(to=str(tmp_path)).name == first.name
    assert second.next().name == "backup_20261121_120005_3.zip"


def test_names_leave_room_for_the_endings_of_volumes(tmp_path: Path) -> None:
    """Told at once, not when all is done."""
    with pytest.raises(PlanError, match="shorten it"):
        choose(str(tmp_path / ("x" * 250)), taken=[".001.zip"])
    choose(str(tmp_path / ("x" * 247)), taken=[".001.zip"])
    job = "j" * (247 - len("_20261121_120005.zip"))
    choose(to=str(tmp_path), job=job, taken=[".001.zip"])
    with pytest.raises(PlanError, match="shorten it"):
        choose(to=str(tmp_path), job=job + "j", taken=[".001.zip"])


ODD = [b"plain.zip", b"back\\slash.zip", b"new\nline.zip", b"re\rturn.zip", b" blank .zip",
       b"caf\xe9.zip", b"-dash.zip", b"*star.zip"]  # fmt: skip


@pytest.mark.parametrize("kind", ["sha256", "md5"])
@pytest.mark.parametrize("name", ODD)
def test_checksum_files_are_what_coreutils_check(
    tmp_path: Path, volumes: list[FinishedVolume], name: bytes, kind: str
) -> None:
    """Names with a line end or a backslash are escaped as it wants."""
    out = tmp_path / "out"
    stored = local.publish(
        volumes, choose(os.fsdecode(os.fsencode(out) + b"/" + name)), kinds=[kind]
    )
    (sums,) = stored.checksum_files
    assert os.fsencode(sums.name) == name + b"." + kind.encode()
    assert sums.stat().st_mode & 0o777 == 0o600
    said = subprocess.run(
        [f"{kind}sum", "--strict", "-c", "--", sums.name], cwd=out, capture_output=True, check=True
    )
    assert said.stdout.count(b": OK\n") == 3
    assert said.stderr == b""
    made = subprocess.run(
        [f"{kind}sum", "--", *(name + b".00%d" % number for number in (1, 2, 3))],
        cwd=out, capture_output=True, check=True,
    )  # fmt: skip
    assert sums.read_bytes() == made.stdout


def test_checksums_are_made_of_a_plain_archive_too(tmp_path: Path, archive: FinishedVolume) -> None:
    place = choose(str(tmp_path / "out/a.zip"))
    stored = local.publish([archive], place, kinds=["md5", "sha256"])
    assert [path.name for path in stored.checksum_files] == ["a.zip.md5", "a.zip.sha256"]
    for kind in ("md5", "sha256"):
        digest = hashlib.new(kind, b"archive").hexdigest()
        assert (tmp_path / f"out/a.zip.{kind}").read_text() == f"{digest}  a.zip\n"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_disk_that_fails_at_the_checksums_leaves_nothing(
    tmp_path: Path, volumes: list[FinishedVolume], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Neither volumes nor half a list (case 96)."""
    calls = 0

    def fail(_fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    place = choose(str(tmp_path / "out/a.zip"))
    with pytest.raises(StorageError, match="no space left"):
        local.publish(volumes, place, kinds=["sha256", "md5"])
    assert os.listdir(tmp_path / "out") == []


def test_a_volume_that_holds_other_bytes_is_not_published(
    tmp_path: Path, volumes: list[FinishedVolume]
) -> None:
    volumes[1].path.write_bytes(b"volume X")
    with pytest.raises(StorageError, match="other bytes than were written"):
        local.publish(volumes, choose(str(tmp_path / "out/a.zip")))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "default"])
def test_a_name_taken_while_others_are_given_costs_nothing(
    tmp_path: Path, volumes: list[FinishedVolume], links: bool, fixed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where files are moved, they are moved back (cases 105, 106)."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    out = tmp_path / "out"
    place = choose(str(out / "a.zip")) if fixed else choose(to=str(out))
    theirs = place.path.with_name(place.name + ".001")
    real = local._give

    def race(unfinished: Path, path: Path) -> Any:
        if path == theirs:
            path.write_bytes(b"theirs")
        return real(unfinished, path)

    monkeypatch.setattr(local, "_give", race)
    if fixed:
        with pytest.raises(StorageError, match="by someone else meanwhile"):
            local.publish(volumes, place)
        assert os.listdir(out) == [theirs.name]
        assert all(volume.path.exists() for volume in volumes)
    else:
        stored = local.publish(volumes, place)
        found = sorted(out.glob("*_2.zip.*"))
        assert [path.read_bytes() for path in found] == [b"volume 1", b"volume 2", b"volume 3"]
        assert len(os.listdir(out)) == 4
        assert stored.path.name.endswith("_2.zip")
    assert theirs.read_bytes() == b"theirs"


KILLED = """
import os, sys
from datetime import datetime
from pathlib import Path
from pybak import staging
from pybak.storage import local
from pybak.volumes.write import FinishedVolume

out, links, at = Path(sys.argv[1]), sys.argv[2] == "links", int(sys.argv[3])
folder = staging.WorkFolder.create(out, "killed")
if not links:
    def refuse(*_):
        raise PermissionError(1, "no")
    os.link = refuse
real, calls = local._give, []
def give(*names):
    if len(calls) == at:
        os.kill(os.getpid(), 9)
    calls.append(names)
    return real(*names)
local._give = give
volumes = []
for number in (1, 2, 3):
    path = folder.path / f"volume-{number}"
    path.write_bytes(b"x" * number)
    sums = {"sha256": __import__("hashlib").sha256(path.read_bytes()).hexdigest()}
    volumes.append(FinishedVolume(os.fsencode(path), f".{number:03d}", number, sums))
place = local.Destination(out, "a.zip", True, "zip")
local.publish(volumes, place)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("links", ["links", "no-links"])
@pytest.mark.parametrize("named", [0, 1, 2, 3])
def test_what_a_killed_run_named_of_a_set_is_removed_unless_it_is_complete(
    tmp_path: Path, links: str, named: int
) -> None:
    """(case 93)"""
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, links, str(named)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert killed.returncode == -9
    names = ["a.zip.001", "a.zip.002", "a.zip.003"]
    there = [name for name in sorted(os.listdir(tmp_path)) if name in names]
    assert there == names[3 - named :]
    assert remove_leftovers(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == (names if named == 3 else [])


def test_files_that_someone_put_in_place_of_a_killed_run_s_stay(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, "links", "2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    (tmp_path / "a.zip.003").unlink()
    (tmp_path / "a.zip.003").write_bytes(b"theirs")
    assert remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == ["a.zip.003"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_folders_that_can_not_be_synced_at_all_will_do(
    tmp_path: Path, archive: FinishedVolume, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert publish(archive, choose(str(tmp_path / "a.zip")))[0].exists()
