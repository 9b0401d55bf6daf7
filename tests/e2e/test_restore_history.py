"""`python flows/restore.py` of a job's history: the latest state, one of a time, one of a run."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import Commands, Finished, Word
from jobs import Job, Tree, seen

from pybak.catalog.locks import archives_lock

NOON = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)


class Past:
    """Three states of a job, at 12, 13 and 14 o'clock UTC, and the commands to look back."""

    def __init__(self, place: Path, server: str) -> None:
        self.place = place
        self.job = Job(place)
        self.states: list[Tree] = []
        self._command = Commands(place, lambda: server)
        docs = self.job.source
        (docs / "sub").mkdir()
        for name in ("a.txt", "b.txt", "sub/c.txt"):
            (docs / name).write_text(f"first {name}\n")
        self._save()
        (docs / "a.txt").write_text("second a, and more\n")
        (docs / "b.txt").unlink()
        self._save()
        (docs / "sub/d.txt").write_text("third\n")
        self._save()

    def _save(self) -> None:
        self.job.run(now=NOON + timedelta(hours=len(self.states)))
        self.states.append(seen(self.job.source))

    def restore(self, *words: Word, **env: str) -> Finished:
        """Run the command with this job's catalog; `env` are more variables."""
        return self._command("restore", *words, env={"PYBAK_HOME": str(self.job.home), **env})

    def verify(self, *words: Word) -> Finished:
        """Run that command with this job's catalog."""
        return self._command("verify", *words, env={"PYBAK_HOME": str(self.job.home)})


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Past:
    return Past(tmp_path_factory.mktemp("past"), prefect_server)


def test_the_latest_state_comes_from_all_its_archives(past: Past, tmp_path: Path) -> None:
    done = past.restore("latest", "--job", "docs", "--to", tmp_path / "t", "--json")
    assert done.rc == 0, done
    assert seen(tmp_path / "t/docs") == past.states[-1]
    assert done.json["archives"] == [str(path) for path in past.job.archives]
    assert done.json["archive"] == str(past.job.archives[-1])
    assert done.json["files"] == {"total": 3, "restored": 3, "skipped": 0, "failed": 0}


def test_a_time_is_local_and_gives_what_was_there_then(past: Past, tmp_path: Path) -> None:
    """Deleted files are back, later ones are not."""
    at = "2026-03-20 13:59"  # 12:59 in UTC
    done = past.restore("--at", at, "--job", "docs", "--to", tmp_path / "t", TZ="Europe/Berlin")
    assert done.rc == 0, done
    assert seen(tmp_path / "t/docs") == past.states[0]


def test_one_file_of_a_run_goes_to_stdout(past: Past) -> None:
    run_id = past.job.snapshots[1].run_id
    for which, text in ((run_id, "second a, and more\n"), (run_id[:8], "second a, and more\n")):
        done = past.restore(which, "--stdout", "--include", "/docs/a.txt")
        assert (done.rc, done.stdout) == (0, text), done


def test_a_time_beside_an_archive_is_wrong_usage(past: Past, tmp_path: Path) -> None:
    archive = past.job.archives[0]
    done = past.restore(archive, "--at", "2026-03-20", "--to", tmp_path / "t")
    assert done.rc == 2, done
    assert "--at" in done.stderr
    done = past.restore("latest", "--at", "yesterday", "--to", tmp_path / "t")
    assert done.rc == 2, done
    assert "--at: 'yesterday' is no time; write it like '2026-11-20 14:00'" in done.stderr


def test_what_a_lost_archive_held_is_missing_and_named(past: Past, tmp_path: Path) -> None:
    lost = past.job.archives[0]
    kept = lost.rename(tmp_path / "elsewhere")
    try:
        done = past.restore("latest", "--job", "docs", "--to", tmp_path / "t", "--json")
    finally:
        kept.rename(lost)
    assert done.rc == 3, done
    assert {one["path"]: one["code"] for one in done.json["errors"]} == {
        "docs/sub/c.txt": "storage"
    }
    assert lost.name in json.dumps(done.json["errors"])
    assert sorted(os.listdir(tmp_path / "t/docs")) == ["a.txt", "sub"]


def test_archives_that_are_being_removed_are_not_read(past: Past, tmp_path: Path) -> None:
    """(case 98)"""
    with archives_lock("docs", shared=False, folder=past.job.home / "locks"):
        done = past.restore("latest", "--job", "docs", "--to", tmp_path / "t", "--dry-run")
        by_path = past.verify(past.job.archives[0])
    assert (done.rc, by_path.rc) == (11, 11), (done, by_path)
    assert not (tmp_path / "t").exists()
    assert past.verify(past.job.archives[0]).rc == 0
