"""Volumes: joined by `cat` they are the archive, and no program sees a difference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from backing_up import (
    FORMATS,
    PASSWORD,
    Outcome,
    back_up,
    judge,
    judge_outcome,
    noise,
    prose,
    run_tool,
    shrink,
)
from commands import tool

from pybak.errors import PlanError, StorageError
from pybak.units import parse_size
from pybak.volumes import write as volume_writing

pytestmark = pytest.mark.needs_tool("7zz", "bsdtar", "tar", "unzip", "zstd")
SPLIT = "70KiB"
WAYS: dict[str, dict[str, Any]] = {
    **FORMATS,
    "hidden zip": {"password": PASSWORD, "hide_names": True},
    "encrypted tar": {"format": "tar", "password": PASSWORD},
    "encrypted tar.zst": {"format": "tar.zst", "password": PASSWORD},
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, part=60_000)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    for number in range(12):
        (folder / f"f{number}").write_bytes(noise(15_000, number))
    (folder / "sub/large").write_bytes(noise(200_000, 99))
    (folder / "text").write_bytes(prose(30_000))
    return folder


def contents_of(src: Path) -> dict[str, bytes]:
    found = {f"src/{path.relative_to(src)}": path.read_bytes() for path in src.rglob("*")
             if path.is_file()}  # fmt: skip
    return {"src/": b"", "src/sub/": b"", **found}


def by_cat(done: Outcome, target: Path) -> Path:
    """Join the volumes as people do."""
    with target.open("wb") as out:
        subprocess.run(["cat", *done.files], stdout=out, check=True)
    return target


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_volumes_are_as_large_as_asked_and_hold_all(
    src: Path, tmp_path: Path, way: str, threads: int
) -> None:
    """All but the last are full, private, and told with size and digest."""
    os.umask(0)
    done = back_up(src, to=tmp_path / "out", split=SPLIT, threads=threads, **WAYS[way])
    judge_outcome(done)
    assert done.contents == contents_of(src)
    limit = parse_size(SPLIT)
    sizes = [path.stat().st_size for path in done.files]
    assert len(sizes) > 4
    assert max(sizes) <= limit
    assert min(sizes[:-1]) > limit - 500
    end = ".zip" if done.is_wrapped else ""
    assert [path.name for path in done.files] == [
        f"{done.path.name}.{number:03d}{end}" for number in range(1, len(sizes) + 1)
    ]
    assert {path.stat().st_mode & 0o777 for path in done.files} == {0o600}
    for path, volume in zip(done.files, done.report.volumes, strict=True):
        assert run_tool("sha256sum", path).split()[0] == volume.sha256
    assert done.report.archive == str(done.path)
    assert done.manifest.head.split == limit if not end else limit - 500 < done.manifest.head.split
    # Nothing else is left behind.
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        [path.name for path in done.files] + [f"joined.{done.path.name}"]
    )


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.zst"])
def test_joined_by_cat_every_program_opens_them(src: Path, tmp_path: Path, kind: str) -> None:
    done = back_up(src, to=tmp_path / "out", split=SPLIT, **FORMATS[kind])
    judge(by_cat(done, tmp_path / f"joined.{kind}"))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.zst"])
def test_7_zip_opens_them_by_the_first_volume(src: Path, tmp_path: Path, kind: str) -> None:
    done = back_up(src, to=tmp_path / "out", split=SPLIT, **FORMATS[kind])
    assert "Everything is Ok" in run_tool("7zz", "t", done.files[0])


def test_a_pipe_of_volumes_is_unpacked_without_joining(src: Path, tmp_path: Path) -> None:
    done = back_up(src, to=tmp_path / "out", split=SPLIT, format="tar.gz")
    target = tmp_path / "u"
    target.mkdir()
    with subprocess.Popen(["cat", *done.files], stdout=subprocess.PIPE) as pipe:
        subprocess.run([tool("tar"), "-xzf", "-", "-C", target], stdin=pipe.stdout, check=True)
    assert (target / "src/sub/large").read_bytes() == noise(200_000, 99)


@pytest.mark.needs_tool("7zz")
def test_wrapped_volumes_are_unwrapped_by_7_zip_and_joined_by_cat(
    src: Path, tmp_path: Path
) -> None:
    done = back_up(
        src, to=tmp_path / "out", split=SPLIT, format="tar.zst", password=PASSWORD, job="docs"
    )
    for path in done.files:
        run_tool("7zz", "x", f"-p{PASSWORD.decode()}", f"-o{tmp_path}/u", path)
    inner = sorted((tmp_path / "u").iterdir())
    assert [path.name for path in inner] == [path.name.removesuffix(".zip") for path in done.files]
    with (tmp_path / "whole.tar.zst").open("wb") as out:
        subprocess.run(["cat", *inner], stdout=out, check=True)
    judge(tmp_path / "whole.tar.zst")


def test_more_than_a_thousand_volumes_get_more_digits(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_writing, "LEAST_SPLIT", 1)
    (src / "more").write_bytes(noise(700_000))
    done = back_up(src, to=tmp_path / "out", split="1000", format="tar")
    numbers = [path.name.rpartition(".")[2] for path in done.files]
    assert numbers[998:1001] == ["999", "1000", "1001"]
    assert max(path.stat().st_size for path in done.files) <= 1000
    judge_outcome(done)
    assert done.contents["src/more"] == noise(700_000)


@pytest.mark.parametrize("way", ["zip", "tar.gz", "encrypted tar"])
def test_an_archive_smaller_than_a_volume_is_one_volume(tmp_path: Path, way: str) -> None:
    """With its number all the same."""
    (tmp_path / "f").write_bytes(b"f")
    done = back_up(tmp_path / "f", to=tmp_path / "out", split="1GB", **WAYS[way])
    assert [path.name.removesuffix(".zip") for path in done.files] == [f"{done.path.name}.001"]
    judge_outcome(done)
    assert done.contents == {"f": b"f"}


@pytest.mark.parametrize("way", ["zip", "tar.zst", "encrypted tar"])
@pytest.mark.parametrize("split", [None, SPLIT])
@pytest.mark.parametrize("job", ["docs", "odd \\ name"])
def test_checksum_files_cover_every_volume(
    src: Path, tmp_path: Path, way: str, split: str | None, job: str
) -> None:
    done = back_up(
        src, to=tmp_path / "out", split=split, job=job, checksum=["sha256", "md5"], **WAYS[way]
    )
    for path in map(Path, done.report.checksum_files):
        kind = path.suffix[1:]
        said = subprocess.run(
            [f"{kind}sum", "--strict", "-c", path.name], cwd=path.parent, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        assert said.stdout.count(": OK\n") == len(done.files)
        assert path.name == f"{done.path.name}.{kind}"
    assert len(done.report.checksum_files) == 2
    assert str(done.report.checksum_files[0]) in done.report.to_text()


def test_odd_names_are_escaped_in_checksum_files(src: Path, tmp_path: Path) -> None:
    from pybak.backup.run import BackupRun
    from pybak.options import BackupOptions

    name = "new\nline \\ \udce9.tar"
    options = BackupOptions(split=SPLIT, checksum=["sha256"])
    with BackupRun(
        [str(src)], output=str(tmp_path / name), to=None, job=None, options=options
    ) as run:
        assert run.format == "tar"
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        from pybak.backup.compress import compress_batches

        compress_batches(run.staging, range(plan.batches))
        with run.assembling() as archive:
            assembly = archive.finish(run.header(), run.owner_names())
        count = run.cut(assembly)
        volume_writing.write_volumes(run.staging, range(count), target=run.staging)
        stored = run.publish(assembly, count)
    (sums,) = stored.checksum_files
    subprocess.run(
        [b"sha256sum", b"--strict", b"-c", os.fsencode(sums.name)], cwd=tmp_path, check=True,
        capture_output=True,
    )  # fmt: skip
    assert sums.read_bytes().startswith(b"\\")


@pytest.mark.parametrize("way", ["zip", "encrypted tar"])
def test_a_second_archive_of_the_same_second_is_named_alike_inside_and_out(
    src: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else both would unpack to the same names."""
    monkeypatch.setattr("pybak.storage.local.default_name", lambda *_: f"same.{kind}")
    kind = WAYS[way].get("format", "zip")
    first = back_up(src, to=tmp_path / "out", split=SPLIT, **WAYS[way])
    second = back_up(src, to=tmp_path / "out", split=SPLIT, **WAYS[way])
    assert (first.path.name, second.path.name) == (f"same.{kind}", f"same_2.{kind}")
    judge_outcome(first)
    judge_outcome(second)  # compares the names inside


def test_volumes_too_small_are_refused_and_leave_no_folder(src: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="64 KiB or more"):
        back_up(src, to=tmp_path / "new/out", split="1000")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("way", ["zip", "encrypted tar"])
@pytest.mark.parametrize("step", [2, 3])
def test_a_cancel_between_volumes_leaves_nothing(
    src: Path, tmp_path: Path, way: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    from pybak import staging
    from pybak.errors import Interrupted

    real, written = volume_writing._write, 0

    def write(folder: Path, *args: Any) -> Any:
        nonlocal written
        written += 1
        if written == step:
            staging.request_cancel(folder)
        return real(folder, *args)

    monkeypatch.setattr(volume_writing, "_write", write)
    with pytest.raises(Interrupted):
        back_up(src, to=tmp_path / "out", split=SPLIT, **WAYS[way])
    assert written == step
    assert not (tmp_path / "out").exists()


def test_a_volume_that_someone_else_made_meanwhile_is_not_touched(
    src: Path, tmp_path: Path
) -> None:
    from pybak.backup.compress import compress_batches
    from pybak.backup.run import BackupRun
    from pybak.options import BackupOptions

    out = tmp_path / "out"
    options = BackupOptions(split=SPLIT)
    with BackupRun(
        [str(src)], output=str(out / "a.zip"), to=None, job=None, options=options
    ) as run:
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        compress_batches(run.staging, range(plan.batches))
        with run.assembling() as archive:
            assembly = archive.finish(run.header(), run.owner_names())
        count = run.cut(assembly)
        volume_writing.write_volumes(run.staging, range(count), target=run.staging)
        (out / "a.zip.002").write_bytes(b"theirs")
        with pytest.raises(StorageError, match="by someone else meanwhile"):
            run.publish(assembly, count)
    assert os.listdir(out) == ["a.zip.002"]
    assert (out / "a.zip.002").read_bytes() == b"theirs"
