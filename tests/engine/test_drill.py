"""Restore drills: what came back is compared with what was recorded, and differences are told."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, noise, prose, shrink
from pydantic import ValidationError
from recorded import Recorded

from pybak.catalog.facts import Version
from pybak.catalog.locks import archives_lock
from pybak.drill.compare import difference, time_step
from pybak.drill.run import DrillRun
from pybak.drill.sample import choose_sample
from pybak.entries import FILE, FOLDER, LINK
from pybak.errors import (
    ArchiveError,
    ExitCode,
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    StorageError,
    WrongPasswordError,
)
from pybak.options.drill import DrillOptions, sample_share
from pybak.report import DrillReport, RestoreReport
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.run import RestoreRun


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "docs"
    (top / "sub").mkdir(parents=True)
    for number in range(12):
        (top / "sub" / f"f{number}").write_bytes(prose(2000, number))
    (top / "link").symlink_to("sub")
    (top / os.fsdecode(b"odd\xff[*]\n")).write_bytes(b"odd")
    (top / "script").write_bytes(b"#!/bin/sh\n")
    (top / "script").chmod(0o4750)
    return top


def restore(run: RestoreRun, password: bytes | None = None) -> RestoreReport:
    """Do what the tasks do."""
    plan = run.plan(password)
    made = make_folders(plan)
    outcomes = [extract_batch(batch, password=password) for batch in plan.batches]
    outcomes.append(finish(plan, password=password))
    return run.report(plan, made, outcomes)


def spoiled(run: DrillRun, restored: RestoreReport) -> None:
    """What a test puts in place of this happens between restore and comparison."""


def drill(
    url: str, job: str | None = "docs", password: bytes | None = None, before: Any = spoiled,
    **options: Any,
) -> DrillReport:  # fmt: skip
    with DrillRun(job, DrillOptions(**options), catalog_url=url) as run:
        run.choose()
        with run.restore_run() as restoring:
            restored = restore(restoring, password)
        before(run, restored)
        report = run.report(restored, run.compare(restored, password))
        scratch = run._target.parent
        assert run.evidence(report)["sampled"] == report.files
    assert not scratch.exists()
    return report


KINDS: list[dict[str, Any]] = [
    {}, {"format": "tar.zst"}, {"password": PASSWORD}, {"password": PASSWORD, "format": "tar"},
    {"split": "64KiB"},
]  # fmt: skip


@pytest.mark.parametrize("how", KINDS, ids=lambda how: "-".join(map(str, how.values())) or "zip")
def test_a_chain_of_good_archives_passes(
    tree: Path, tmp_path: Path, url: str, how: dict[str, Any]
) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree, **how)
    (tree / "second").write_bytes(noise(100_000))
    made.back_up(tree, **how)
    (tree / "third").write_bytes(noise(100))
    made.back_up(tree, **how)
    report = drill(url, password=how.get("password"), sample="100%")
    assert (report.status, report.errors) == ("success", ())
    assert report.exit_code == ExitCode.DONE
    assert report.total == report.files == 16
    assert [one.archive for one in report.archives] == [one.report.archive for one in made.outcomes]
    assert [one.files for one in report.archives] == [14, 1, 1]
    assert report.run_id == made.outcomes[2].report.run_id


def test_files_in_parts_and_sparse_files_are_compared_too(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 12)"""
    shrink(monkeypatch, part=40_000)
    (tree / "large").write_bytes(noise(150_000))
    with (tree / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"in the middle")
        file.truncate(3 << 20)
    with (tree / "hole").open("wb") as file:
        file.truncate(1 << 20)
    made = Recorded(url, tmp_path / "to")
    for format_ in ("zip", "tar.gz", "tar"):
        made.back_up(tree, format=format_, mode="full")
        report = drill(url, sample="100%")
        assert (report.status, report.errors) == ("success", ()), format_
        assert report.files == 17


def spoil(content: bytes | None = None, **how: Any) -> Any:
    """Give what changes restored files behind the drill's back."""

    def change(run: DrillRun, _restored: RestoreReport) -> None:
        path = run._target / "docs" / "sub" / "f3"
        status = path.stat()
        if content is not None:
            path.write_bytes(content)
        if "cut" in how:
            os.truncate(path, how["cut"])
        if "mode" in how:
            path.chmod(how["mode"])
        if "gone" in how:
            path.unlink()
            return
        if "kind" in how:
            path.unlink()
            path.symlink_to("f4")
            return
        times = (status.st_mtime_ns + how.get("later", 0),) * 2
        os.utime(path, ns=times)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(prose(2000, 77)), "has another content than was saved: its SHA-256 differs"),
        (spoil(cut=1999), "has 1999 bytes, 2000 were saved"),
        (spoil(mode=0o600), "has mode 0600, 0644 was saved"),
        (spoil(later=1_000_000), "ns was saved"),
        (spoil(gone=True), "was not restored (no such file or directory)"),
        (spoil(kind=True), "came back as another kind of file than a file"),
    ],
)
def test_every_difference_is_found_and_named(
    tree: Path, tmp_path: Path, url: str, change: Any, message: str
) -> None:
    Recorded(url, tmp_path / "to").back_up(tree)
    report = drill(url, before=change, sample="100%")
    assert (report.status, report.exit_code) == ("failed", ExitCode.FAILED)
    (error,) = report.errors
    assert error.path == "docs/sub/f3"
    assert error.message.endswith(message)
    assert "1 of 14 files did not come back as saved" in report.headline()
    assert "docs/sub/f3" in report.to_text()
    assert report.to_json()["files"] == {"total": 14, "sampled": 14, "good": 13, "failed": 1}


def test_damage_in_an_archive_fails_the_drill(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 60)"""
    made = Recorded(url, tmp_path / "to")
    (tree / "big").write_bytes(noise(200_000))
    done = made.back_up(tree)
    data = bytearray(done.path.read_bytes())
    at = data.find(noise(200_000)[1000:1100])
    data[at] ^= 1
    done.path.write_bytes(data)
    report = drill(url, sample="100%")
    assert report.status == "failed"
    assert [error.path for error in report.errors] == ["docs/big"]


def test_an_archive_that_is_lost_fails_the_drill(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 76)"""
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    (tree / "second").write_bytes(b"second")
    made.back_up(tree)
    made.outcomes[0].path.unlink()
    report = drill(url, sample="5")
    assert report.status == "failed"
    assert [one.failed > 0 for one in report.archives] == [True, False]
    assert all("no longer there" in error.message for error in report.errors)


def test_an_archive_that_was_replaced_by_another_good_one_is_found_out(
    tree: Path, tmp_path: Path, url: str
) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    (tree / "sub" / "f3").write_bytes(prose(2000, 99))
    made.back_up(tree, mode="full")
    made.outcomes[0].path.replace(made.outcomes[1].path)
    with pytest.raises(ArchiveError, match="is another archive than run"):
        drill(url, sample="100%")


def test_a_catalog_that_was_tampered_with_does_not_pass(
    tree: Path, tmp_path: Path, url: str
) -> None:
    Recorded(url, tmp_path / "to").back_up(tree)
    with sqlite3.connect(tmp_path / "home" / "catalog.db") as database:
        database.execute(
            "UPDATE file_version SET sha256 = ? WHERE path = 'docs/sub/f5'", ("0" * 64,)
        )
    database.close()
    report = drill(url, sample="100%")
    assert [error.path for error in report.errors] == ["docs/sub/f5"]


# ---- which snapshot, where, with what


def test_the_newest_snapshot_of_the_job_is_tried(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    assert drill(url, None).job == "docs"
    other = Recorded(url, tmp_path / "to", job="other")
    other.back_up(tree)
    with pytest.raises(PlanError, match="docs, other"):
        drill(url, None)
    assert drill(url, "other").run_id == other.outcomes[0].report.run_id
    with pytest.raises(NotFoundError, match="known are docs, other"):
        drill(url, "dosc")


def test_without_a_catalog_nothing_is_made(tmp_path: Path, url: str) -> None:
    with pytest.raises(NotFoundError, match=r"rebuild\.py"):
        drill(url)
    assert not (tmp_path / "home").exists()


def test_a_wrong_password_ends_the_drill(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 63)"""
    Recorded(url, tmp_path / "to").back_up(tree, password=PASSWORD, format="tar")
    with pytest.raises(WrongPasswordError):
        drill(url, password=b"another")


def test_the_scratch_folder_can_be_named_and_is_left_empty(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorded(url, tmp_path / "to").back_up(tree)
    scratch = tmp_path / "scratch"
    with pytest.raises(NotFoundError, match="--scratch"):
        drill(url, scratch=str(scratch))
    scratch.mkdir()
    seen: list[Path] = []
    drill(url, scratch=str(scratch), before=lambda run, _: seen.append(run._target))
    assert seen[0].is_relative_to(scratch)
    assert os.listdir(scratch) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(StorageError, match="--sample"):
        drill(url, scratch=str(scratch))
    assert os.listdir(scratch) == []


def test_archives_stay_while_a_drill_reads_them(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 98)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    with (
        DrillRun("docs", DrillOptions(), catalog_url=url) as run,
        run.locked(print),
        pytest.raises(LockedError),
        archives_lock("docs", shared=False),
    ):
        pass
    with (
        DrillRun("docs", DrillOptions(), catalog_url=url) as run,
        archives_lock("docs", shared=False),
        pytest.raises(LockedError),
        run.locked(print),
    ):
        pass


def test_a_drill_can_be_stopped(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 95)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    with pytest.raises(Interrupted):
        drill(url, before=lambda run, _: run.request_cancel())


# ---- the sample


def versions(*archives: tuple[int, str]) -> list[Version]:
    return [
        Version(b"f%04d" % number, kind, 10, 0, 0o644, 0, 0, False, "0" * 64, (), archive, 1, None)
        for number, (archive, kind) in enumerate(archives)
    ]


def chosen(all_: list[Version], wanted: int, seed: str = "x") -> tuple[list[Version], int]:
    return choose_sample(lambda: iter(all_), lambda _total: wanted, random.Random(seed))


def test_a_sample_has_the_wanted_number_and_each_archive() -> None:
    all_ = versions(*[(1, FILE)] * 500, *[(2, FILE)] * 2, (3, FILE), *[(3, FOLDER)] * 9)
    for seed in map(str, range(30)):
        sample, total = chosen(all_, 20, seed)
        count = Counter(version.archive_id for version in sample)
        assert total == 503
        assert set(count) == {1, 2, 3}
        assert 20 <= len(sample) <= 22
        assert len({version.path for version in sample}) == len(sample)
        assert {version.kind for version in sample} == {FILE}


def test_an_archive_without_files_is_tried_by_another_member() -> None:
    all_ = versions((1, FILE), (2, FOLDER), (2, LINK), (3, "p"))
    sample, total = chosen(all_, 1)
    assert total == len(sample) == 2  # never more sampled than there are
    assert {version.archive_id for version in sample} == {1, 2}


def test_the_same_seed_gives_the_same_sample() -> None:
    all_ = versions(*[(1, FILE)] * 100)
    assert chosen(all_, 5, "a") == chosen(all_, 5, "a")
    assert chosen(all_, 5, "a") != chosen(all_, 5, "b")


def test_every_file_has_its_chance() -> None:
    all_ = versions(*[(1, FILE)] * 10)
    hits = Counter(version.path for seed in range(400) for version in chosen(all_, 2, str(seed))[0])
    assert len(hits) == 10
    assert 40 < min(hits.values()) <= max(hits.values()) < 130


@pytest.mark.parametrize(
    ("text", "total", "wanted"),
    [
        (None, 10, 10), (None, 1000, 50), (None, 100_000, 1000), ("7", 100, 7), ("7", 3, 3),
        ("5%", 200, 10), ("0.5%", 10_000, 50), ("1%", 10, 1), ("100%", 9, 9), (" 2 %", 100, 2),
    ],
)  # fmt: skip
def test_a_sample_is_a_number_or_a_share(text: str | None, total: int, wanted: int) -> None:
    assert sample_share(DrillOptions(sample=text).sample).of(total) == wanted


@pytest.mark.parametrize("text", ["0", "-1", "0%", "101%", "many", "5 %%", "1.5", ""])
def test_what_is_no_sample_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="is no sample"):
        DrillOptions(sample=text)


# ---- comparing


@pytest.fixture
def one(tmp_path: Path) -> tuple[bytes, Version]:
    path = tmp_path / "one"
    path.write_bytes(b"x" * 100)
    status = path.stat()
    digest = hashlib.sha256(b"x" * 100).hexdigest()
    return os.fsencode(path), Version(
        b"one", FILE, 100, status.st_mtime_ns, status.st_mode & 0o7777, 0, 0, False, digest, (), 1,
        1, None,
    )  # fmt: skip


def test_times_count_as_exactly_as_they_are_kept(
    one: tuple[bytes, Version], tmp_path: Path
) -> None:
    path, version = one
    assert difference(path, version) is None
    later = version._replace(mtime_ns=version.mtime_ns + 1_000)
    assert difference(path, later) is not None
    assert difference(path, later, time_step_ns=2_000) is None
    assert 1 <= time_step(tmp_path) < 2_000_000_000
    assert os.listdir(tmp_path) == ["one"]


@pytest.mark.needs_root
def test_a_file_whose_mode_forbids_reading_is_read_all_the_same(open_dir: Path) -> None:
    path = open_dir / "secret"
    path.write_bytes(b"x" * 100)
    path.chmod(0o200)
    os.chown(path, 65534, 65534)
    status = path.stat()
    version = Version(
        b"secret", FILE, 100, status.st_mtime_ns, 0o200, 65534, 65534, False,
        hashlib.sha256(b"x" * 100).hexdigest(), (), 1, 1, None,
    )  # fmt: skip
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            path.read_bytes()
        assert difference(os.fsencode(path), version) is None
    finally:
        os.seteuid(0)


def test_parts_must_all_be_right(one: tuple[bytes, Version]) -> None:
    path, version = one
    good = hashlib.sha256(b"x" * 50).hexdigest()
    parts = ((50, good), (50, good))
    assert difference(path, version._replace(sha256=None, parts=parts)) is None
    for bad in (((50, good), (50, "0" * 64)), ((50, good),), ((60, good), (40, good))):
        assert difference(path, version._replace(sha256=None, parts=bad)) is not None


def test_a_sparse_file_must_be_empty_between_its_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(1 << 20)
        file.write(b"data")
        file.truncate(2 << 20)
    status = path.stat()
    runs = [(1 << 20, 4)]
    version = Version(
        b"sparse", FILE, 2 << 20, status.st_mtime_ns, status.st_mode & 0o7777, 0, 0, False,
        hashlib.sha256(b"data").hexdigest(), (), 1, 1, None,
    )  # fmt: skip
    name = os.fsencode(path)
    assert difference(name, version) is not None
    assert difference(name, version, data_map=lambda: runs) is None
    parts = version._replace(sha256=None, parts=((4, version.sha256 or ""),))
    assert difference(name, parts, data_map=lambda: runs) is None
    assert difference(name, parts, data_map=lambda: [*runs, (1536 << 10, 4)]) is not None
    for place in (0, (1 << 20) + 4, (2 << 20) - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"!")
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert difference(name, version, data_map=lambda: runs) is not None
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\0")
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert difference(name, version, data_map=lambda: runs) is None
