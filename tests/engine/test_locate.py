"""What a named archive means: a path, a run, the latest of a job."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pybak.catalog.runs import Catalog
from pybak.errors import NotFoundError, PlanError
from pybak.locate import portable_name
from pybak.restore.ask import ask
from pybak.volumes.find import VolumeSet

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


def locate(which: str, *, job: str | None = None, catalog_url: str) -> VolumeSet:
    """Find an archive of which the catalog knows the run alone."""
    asked = ask(which, job=job, at=None, catalog_url=catalog_url)
    assert asked.archive is not None
    return asked.archive


def record(url: str, run_id: str, job: str, archive: str | None) -> None:
    catalog = Catalog(url)
    catalog.begin_run(run_id, kind="backup", job=job, options={}, now=NOW)
    catalog.finish_run(run_id, status="success", counts={}, now=NOW, archive=archive)
    catalog.close()


def test_a_path_beats_a_run_and_a_run_beats_nothing(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "by-run.zip"
    archive.touch()
    record(url, "abc", "docs", str(archive))
    assert locate("abc", catalog_url=url).paths == (os.fsencode(archive),)
    assert locate("latest", catalog_url=url).paths == (os.fsencode(archive),)
    (tmp_path / "abc").touch()
    assert locate("abc", catalog_url=url).paths == (os.fsencode(tmp_path / "abc"),)
    with pytest.raises(NotFoundError, match="neither a file nor a known run"):
        locate("nothing", catalog_url=url)
    with pytest.raises(NotFoundError, match=r"nothing\.zip: no such archive"):
        locate("nothing.zip", catalog_url=url)


def volumes(folder: Path, name: str, *sizes: int) -> tuple[Path, ...]:
    paths = tuple(folder / f"{name}.{number + 1:03d}" for number in range(len(sizes)))
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"v" * size)
    return paths


def test_volumes_are_found_by_name_number_folder_run_and_job(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stick").mkdir()
    paths = volumes(tmp_path / "stick", "x.tar.gz", 9, 9, 4)
    record(url, "abc", "docs", str(tmp_path / "stick/x.tar.gz"))
    for which in ("stick/x.tar.gz", "stick/x.tar.gz.002", "stick", "abc", "latest"):
        found = locate(which, catalog_url=url)
        assert found.paths == tuple(map(os.fsencode, paths)), which
        assert found.base == os.fsencode(tmp_path / "stick/x.tar.gz")


def test_a_missing_volume_is_named_also_without_a_slash(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 61)"""
    monkeypatch.chdir(tmp_path)
    paths = volumes(tmp_path, "x.zip", 9, 9, 4)
    paths[1].unlink()
    for which in ("x.zip", "x.zip.003", str(paths[0])):
        with pytest.raises(NotFoundError, match=r"x\.zip\.002"):
            locate(which, catalog_url=url)


def test_a_run_whose_archive_is_gone_is_told(tmp_path: Path, url: str) -> None:
    record(url, "abc", "docs", str(tmp_path / "gone.zip"))
    with pytest.raises(NotFoundError, match="no longer there"):
        locate("abc", catalog_url=url)
    record(url, "def", "docs", None)
    with pytest.raises(NotFoundError, match="has no archive"):
        locate("def", catalog_url=url)


def test_what_is_found_is_found_again_by_its_name(tmp_path: Path, url: str) -> None:
    """Flows get the name as a parameter, and may not take something else for it."""
    paths = volumes(tmp_path, "x.tar.gz", 9, 9, 4)
    found = locate(str(paths[2]), catalog_url=url)
    assert portable_name(found) == str(tmp_path / "x.tar.gz")
    (tmp_path / "x.tar.gz").touch()
    found = locate(str(paths[2]), catalog_url=url)
    assert locate(portable_name(found), catalog_url=url) == found
    wrapped = tmp_path / "y.tar.zst.zip"
    wrapped.touch()
    found = locate(str(tmp_path / "y.tar.zst"), catalog_url=url)
    assert found.paths == (os.fsencode(wrapped),)
    assert locate(portable_name(found), catalog_url=url).paths == (os.fsencode(wrapped),)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.zip"))
    odd.touch()
    found = locate(str(odd), catalog_url=url)
    assert portable_name(found).startswith("file:///")
    assert locate(portable_name(found), catalog_url=url) == found


@pytest.mark.parametrize("which", ["x" * 300, "~nosuchuserhere/x.zip", "a\0b", "./" + "y" * 300])
def test_what_can_be_no_path_is_told_as_a_mistake(url: str, which: str) -> None:
    with pytest.raises(PlanError):
        locate(which, catalog_url=url)


def test_names_that_are_not_utf_8_are_found(tmp_path: Path, url: str) -> None:
    """Job and archive come back byte for byte (case 3)."""
    archive = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \\x41.zip")
    Path(archive).touch()
    job = os.fsdecode(b"/home/\xff\xe9\\")
    record(url, "abc", job, archive)
    assert locate("abc", catalog_url=url).paths == (os.fsencode(archive),)
    assert locate("latest", job=job, catalog_url=url).paths == (os.fsencode(archive),)
    with pytest.raises(NotFoundError):
        locate(os.fsdecode(b"\xff"), catalog_url=url)


def test_a_run_is_named_by_the_start_of_its_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    catalog = Catalog(url)
    now = datetime(2026, 11, 21, tzinfo=UTC)
    for run_id in ("4c11969c-aaaa", "4c11969c-bbbb"):
        archive = tmp_path / f"{run_id}.zip"
        archive.write_bytes(b"PK")
        catalog.begin_run(run_id, kind="backup", job=run_id, options={}, now=now)
        catalog.finish_run(run_id, status="success", counts={}, now=now, archive=str(archive))
    found = locate("4c11969c-a", catalog_url=url)
    assert found.base == bytes(tmp_path / "4c11969c-aaaa.zip")
    with pytest.raises(PlanError, match="which run"):
        locate("4c11969c", catalog_url=url)
    with pytest.raises(NotFoundError):
        locate("4c1", catalog_url=url)
