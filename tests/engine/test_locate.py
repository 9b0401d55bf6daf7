"""What a named archive means: a path, a run, the latest of a job."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pybak.catalog.runs import Catalog
from pybak.errors import NotFoundError, PlanError
from pybak.locate import locate_archive

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


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
    assert locate_archive("abc", job=None, catalog_url=url) == archive
    assert locate_archive("latest", job=None, catalog_url=url) == archive
    (tmp_path / "abc").touch()
    assert locate_archive("abc", job=None, catalog_url=url) == tmp_path / "abc"
    with pytest.raises(NotFoundError):
        locate_archive("nothing", job=None, catalog_url=url)


@pytest.mark.parametrize("which", ["x" * 300, "~nosuchuserhere/x.zip", "a\0b", "./" + "y" * 300])
def test_what_can_be_no_path_is_told_as_a_mistake(url: str, which: str) -> None:
    with pytest.raises(PlanError):
        locate_archive(which, job=None, catalog_url=url)


def test_names_that_are_not_utf_8_are_found(tmp_path: Path, url: str) -> None:
    """Job and archive come back byte for byte (case 3)."""
    archive = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \\x41.zip")
    Path(archive).touch()
    job = os.fsdecode(b"/home/\xff\xe9\\")
    record(url, "abc", job, archive)
    assert locate_archive("abc", job=None, catalog_url=url) == Path(archive)
    assert locate_archive("latest", job=job, catalog_url=url) == Path(archive)
    with pytest.raises(NotFoundError):
        locate_archive(os.fsdecode(b"\xff"), job=None, catalog_url=url)
