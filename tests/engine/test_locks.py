"""Locks of a job: who waits for whom, who is named, and that none outlives its holder."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pruning import Shelf
from waiting import shared, wait_for, within

from pybak.catalog.locks import (
    FOREVER,
    Lock,
    archives_lock,
    is_locked,
    job_lock,
    noted,
    waiting_seconds,
)
from pybak.errors import ExitCode, Interrupted, LockedError, StorageError
from pybak.home import home

if TYPE_CHECKING:
    from postgres import Server

_HOLD = """
import sys, time
from pybak.catalog.locks import job_lock, archives_lock
kind, url, seconds = sys.argv[1], sys.argv[2] or None, float(sys.argv[3])
if kind == "job":
    lock = job_lock("docs", catalog_url=url, wait=seconds)
else:
    lock = archives_lock("docs", shared=kind == "shared", catalog_url=url, wait=seconds)
with lock:
    print("held", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


@contextlib.contextmanager
def holder(
    kind: str, *, url: str = "", wait: float = 0, home: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that takes a lock and holds it until its stdin is closed."""
    environ = dict(os.environ) if home is None else {**os.environ, "PYBAK_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, kind, url, str(wait)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{word}\n"


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def is_free(url: str | None = None) -> bool:
    try:
        with job_lock("docs", catalog_url=url):
            return True
    except LockedError:
        return False


def test_the_second_run_of_a_job_is_refused_and_told_who_is_first() -> None:
    """(case 98)"""
    with holder("job") as first:
        says(first, "held")
        with pytest.raises(LockedError) as refused, job_lock("docs"):
            pass
    message = str(refused.value)
    assert refused.value.exit_code == ExitCode.LOCKED == 11
    assert message.startswith("docs: another run of this job is at work (process ")
    assert f"process {first.pid}, since 2" in message
    assert "--wait" in message
    assert "\n" not in message


def test_other_jobs_are_not_kept_waiting() -> None:
    with holder("job") as first:
        says(first, "held")
        with job_lock("mail"), archives_lock("docs", shared=False):
            pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_holder_holds_nothing(number: signal.Signals) -> None:
    """(case 99)"""
    with holder("job") as first:
        says(first, "held")
        first.send_signal(number)
        first.wait()
        assert is_free()


def test_a_holder_that_sleeps_is_not_taken_for_dead() -> None:
    """(case 99)"""
    with holder("job") as first:
        says(first, "held")
        first.send_signal(signal.SIGSTOP)
        try:
            assert not is_free()
        finally:
            first.send_signal(signal.SIGCONT)


def test_children_of_the_holder_do_not_inherit_the_lock() -> None:
    with job_lock("docs"), contextlib.ExitStack() as stack:
        child = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        )
        open_files = os.listdir(f"/proc/{child.pid}/fd")
        links = []
        for name in open_files:
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{child.pid}/fd/{name}"))
        child.kill()
    assert links
    assert not [link for link in links if "/locks/" in link]


def test_a_forked_child_does_not_keep_the_lock_of_a_run_that_has_ended() -> None:
    with job_lock("docs"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        assert is_free()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    told: list[str] = []
    with holder("job") as first:
        says(first, "held")
        threading.Timer(0.3, let_go, [first]).start()
        with job_lock("docs", wait=FOREVER, on_wait=told.append):
            says(first, "released")
    assert len(told) == 1
    assert told[0].startswith(f"waiting for process {first.pid}, since ")
    assert told[0].endswith(" (docs: another run of this job is at work)")


def test_waiting_ends_at_its_limit_and_leaves_no_lock() -> None:
    """(case 98)"""
    with holder("job") as first:
        says(first, "held")
        started = time.monotonic()
        with pytest.raises(LockedError), job_lock("docs", wait=0.5):
            pass
        assert 0.5 <= time.monotonic() - started < shared(2)
        let_go(first)
        says(first, "released")
        assert is_free()


def test_waiting_ends_when_the_run_is_stopped() -> None:
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    with holder("job") as first:
        says(first, "held")
        with (
            within(2),
            pytest.raises(Interrupted),
            job_lock("docs", wait=FOREVER, cancelled=asked.is_set),
        ):
            pass


def test_of_many_at_once_one_gets_it() -> None:
    """(case 98)"""
    held = threading.Lock()
    overlaps, done = [], []

    def work() -> None:
        with job_lock("docs", wait=30):
            if not held.acquire(blocking=False):
                overlaps.append(1)
            time.sleep(0.01)
            held.release()
            done.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), overlaps) == (8, [])


def test_reading_goes_side_by_side_and_deleting_alone() -> None:
    """(case 98)"""
    with holder("shared") as first, holder("shared") as second:
        says(first, "held")
        says(second, "held")
        with archives_lock("docs", shared=True):
            pass
        with (
            pytest.raises(LockedError, match="its archives are being read"),
            archives_lock("docs", shared=False),
        ):
            pass
        with job_lock("docs"):  # a backup does not disturb a restore
            pass
    with holder("exclusive") as third:
        says(third, "held")
        with (
            pytest.raises(LockedError, match="its archives are being deleted"),
            archives_lock("docs", shared=True),
        ):
            pass


def test_a_holder_that_is_gone_is_not_named() -> None:
    with holder("shared") as first:
        says(first, "held")
        with holder("shared") as second:
            says(second, "held")  # the last to write itself down
        with (
            pytest.raises(LockedError, match=r"being read \(another run\)"),
            archives_lock("docs", shared=False),
        ):
            pass


def test_what_the_file_holds_is_for_messages_only() -> None:
    with job_lock("docs"):
        (file,) = (home() / "locks").iterdir()
        for content in (b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 3000):
            file.write_bytes(content)
            with pytest.raises(LockedError, match=r"\(another run\)"), job_lock("docs"):
                pass
    assert is_free()


def test_names_of_jobs_may_be_anything() -> None:
    for name in ("/home/u/Docs, /etc", "a\nb", "x" * 5000, "caf\udce9", ""):
        with job_lock(name), pytest.raises(LockedError) as refused, job_lock(name):
            pass
        assert "\n" not in str(refused.value)
        str(refused.value).encode()


def test_where_no_lock_can_be_had_the_run_is_told_and_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "home"
    place.write_text("a file where a folder should be")
    with job_lock("docs", folder=place / "locks") as lock:
        assert not lock.is_safe
        assert lock.problem is not None
        assert "PYBAK_HOME" in lock.problem
    with job_lock("docs", folder=tmp_path / "locks") as good:
        assert good == Lock(is_safe=True)


def test_a_file_system_without_locks_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_fd: int, _mode: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with job_lock("docs") as lock:
        assert not lock.is_safe
        assert "no locks available" in str(lock.problem)


def test_a_link_that_lies_where_the_lock_should_be_is_not_followed(tmp_path: Path) -> None:
    with job_lock("docs"):
        pass
    (file,) = (home() / "locks").iterdir()
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with job_lock("docs") as lock:
        assert not lock.is_safe
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("wait", "limit", "seconds"),
    [(False, None, None), (True, None, math.inf), (True, "90s", 90.0), (False, "15m", 900.0)],
)
def test_options_say_how_long_to_wait(wait: bool, limit: str | None, seconds: float | None) -> None:
    assert waiting_seconds(wait=wait, limit=limit) == seconds


class TestSharedFile:
    """Whoever shares an SQLite catalog is kept apart, whatever their homes."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """The URL of an empty catalog that does not lie in PYBAK_HOME."""
        place = tmp_path / "shared"
        place.mkdir(mode=0o700)
        (place / "catalog.db").touch(0o600)
        return f"sqlite:///{place}/catalog.db"

    def test_runs_with_different_homes_exclude_each_other(self, url: str, tmp_path: Path) -> None:
        """(case 98)"""
        with holder("job", url=url, home=tmp_path / "other") as first:
            says(first, "held")
            with pytest.raises(LockedError) as refused, job_lock("docs", catalog_url=url):
                pass
            assert re.search(rf"\(process {first.pid}, since 2", str(refused.value))
            assert is_locked("docs", catalog_url=url)
            assert not is_locked("docs")
            with job_lock("mail", catalog_url=url), job_lock("docs") as with_another:
                assert with_another == Lock(is_safe=True)
            let_go(first)
            says(first, "released")
            assert is_free(url)

    @pytest.mark.parametrize("kinds", [("shared", "exclusive"), ("exclusive", "shared")])
    def test_readers_share_and_who_deletes_waits(
        self, url: str, tmp_path: Path, kinds: Sequence[str]
    ) -> None:
        with holder(kinds[0], url=url, home=tmp_path / "a") as first:
            says(first, "held")
            if kinds[0] == "shared":
                with archives_lock("docs", shared=True, catalog_url=url):
                    pass
            with holder(kinds[1], url=url, home=tmp_path / "b", wait=30) as second:
                time.sleep(0.5)
                let_go(first)
                says(first, "released")
                says(second, "held")

    def test_a_home_whose_catalog_is_shared_counts_too(self, tmp_path: Path) -> None:
        with holder("job", home=tmp_path / "other") as first:
            says(first, "held")
            (tmp_path / "link.db").symlink_to(tmp_path / "other" / "catalog.db")
            for name in ("other/catalog.db", "link.db"):
                url = f"sqlite:///{tmp_path}/{name}"
                with pytest.raises(LockedError), job_lock("docs", catalog_url=url):
                    pass

    def test_who_took_it_last_is_read_where_all_write_themselves_down(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYBAK_CATALOG_URL", url)
        with job_lock("docs", run_id="earlier", catalog_url=url):
            pass
        monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "other"))
        with job_lock("docs", run_id="r", catalog_url=url):
            monkeypatch.undo()
            monkeypatch.setenv("PYBAK_CATALOG_URL", url)
            note = noted("docs")
        assert note is not None
        assert (note.run_id, note.is_alive) == ("r", True)

    def test_the_catalog_in_the_home_has_no_other_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lock that is taken twice keeps its own run away."""
        link = tmp_path / "link"
        link.symlink_to(home())
        for path in (home() / "catalog.db", link / "catalog.db"):
            with job_lock("docs", catalog_url=f"sqlite:///{path}") as lock:
                assert lock == Lock(is_safe=True)
                assert len(list((home() / "locks").iterdir())) == 1
        monkeypatch.setenv("PYBAK_HOME", str(link))
        with job_lock("docs", catalog_url=f"sqlite:///{link.resolve()}/catalog.db") as lock:
            assert lock == Lock(is_safe=True)
        (tmp_path / "locks").symlink_to(home() / "locks")
        with job_lock("docs", catalog_url=f"sqlite:///{tmp_path}/catalog.db") as lock:
            assert lock == Lock(is_safe=True)

    def test_databases_without_a_file_have_no_other_lock(self) -> None:
        for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true", "sqlite:x"):
            with job_lock("docs", catalog_url=url) as lock:
                assert lock == Lock(is_safe=True)

    def test_where_the_catalogs_folder_takes_no_locks_the_run_is_told_and_goes_on(
        self, url: str, tmp_path: Path
    ) -> None:
        (tmp_path / "shared" / "locks").write_text("a file where a folder should be")
        with job_lock("docs", catalog_url=url) as lock:
            assert not lock.is_safe
            assert f"{tmp_path}/shared/locks: can't hold locks" in str(lock.problem)
            assert not is_free(), "who shares PYBAK_HOME is kept away all the same"
        shelf = Shelf(tmp_path / "shelf", url)
        shelf.add({"a": 1})
        shelf.add({"a": 2})
        with pytest.raises(StorageError, match="can't hold locks"):
            shelf.prune(keep_last=1)

    def test_a_home_that_takes_no_locks_is_told_all_the_same(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "file"))
        with job_lock("docs", catalog_url=url) as lock:
            assert not lock.is_safe
            assert "put PYBAK_HOME on a local disk" in str(lock.problem)
            assert not is_free(url), "who shares the catalog is kept away all the same"

    def test_a_folder_that_is_not_there_is_made_as_for_a_catalog(self, tmp_path: Path) -> None:
        with job_lock("docs", catalog_url=f"sqlite:///{tmp_path}/new/catalog.db") as lock:
            assert lock == Lock(is_safe=True)
        modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "new/locks")]
        assert modes == [0o700, 0o700]

    @pytest.mark.parametrize(
        ("mode", "folder_mode", "file_mode"),
        [(0o600, 0o700, 0o600), (0o640, 0o700, 0o600), (0o660, 0o770, 0o660)],
    )
    def test_who_may_write_the_catalog_may_take_its_locks(
        self, url: str, tmp_path: Path, mode: int, folder_mode: int, file_mode: int
    ) -> None:
        place = tmp_path / "shared"
        (place / "catalog.db").chmod(mode)
        with job_lock("docs", catalog_url=url):
            (file,) = (place / "locks").iterdir()
            assert (place / "locks").stat().st_mode & 0o777 == folder_mode
            assert file.stat().st_mode & 0o777 == file_mode

    def test_locks_that_were_made_before_the_catalog_was_shared_are_shared_too(
        self, url: str, tmp_path: Path
    ) -> None:
        place = tmp_path / "shared"
        (place / "catalog.db").chmod(0o600)
        with job_lock("docs", catalog_url=url):
            pass
        (place / "catalog.db").chmod(0o660)
        with job_lock("docs", catalog_url=url):
            (file,) = (place / "locks").iterdir()
            assert (place / "locks").stat().st_mode & 0o777 == 0o770
            assert file.stat().st_mode & 0o777 == 0o660
        (place / "locks" / "mine").touch()  # a folder that only happens to be called so
        (place / "locks").chmod(0o700)
        with job_lock("docs", catalog_url=url):
            assert (place / "locks").stat().st_mode & 0o777 == 0o700

    @pytest.mark.needs_root
    def test_root_leaves_the_locks_to_the_owner_of_the_catalog(
        self, url: str, tmp_path: Path
    ) -> None:
        place = tmp_path / "shared"
        for path in (place, place / "catalog.db"):
            os.chown(path, 65534, 65534)
        for job in ("docs", "mail"):
            with job_lock(job, catalog_url=url) as lock:
                assert lock == Lock(is_safe=True)
        made = [place / "locks", *(place / "locks").iterdir()]
        assert [(one.stat().st_uid, one.stat().st_gid) for one in made] == [(65534, 65534)] * 3

    @pytest.mark.needs_root
    def test_root_leaves_nothing_where_a_link_leads_elsewhere(
        self, url: str, tmp_path: Path
    ) -> None:
        place, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
        elsewhere.mkdir()
        for path in (place, place / "catalog.db"):
            os.chown(path, 65534, 65534)
        (place / "locks").symlink_to(elsewhere)
        with job_lock("docs", catalog_url=url):
            pass
        assert [one.stat().st_uid for one in (elsewhere, *elsewhere.iterdir())] == [0, 0]


class TestPostgres:
    """The server keeps runs on different machines apart: here, with different homes."""

    def test_runs_with_different_homes_exclude_each_other(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        """(case 98)"""
        with holder("job", url=postgres_url, home=tmp_path / "other") as first:
            says(first, "held")
            with pytest.raises(LockedError) as refused, job_lock("docs", catalog_url=postgres_url):
                pass
            assert re.search(rf"\(process {first.pid}, since 2", str(refused.value))
            with job_lock("mail", catalog_url=postgres_url):
                pass
            let_go(first)
            says(first, "released")
            assert is_free(postgres_url)

    @pytest.mark.parametrize("kinds", [("shared", "exclusive"), ("exclusive", "shared")])
    def test_readers_share_and_who_deletes_waits(
        self, postgres_url: str, tmp_path: Path, kinds: Sequence[str]
    ) -> None:
        with holder(kinds[0], url=postgres_url, home=tmp_path / "a") as first:
            says(first, "held")
            if kinds[0] == "shared":
                with archives_lock("docs", shared=True, catalog_url=postgres_url):
                    pass
            with holder(kinds[1], url=postgres_url, home=tmp_path / "b", wait=30) as second:
                time.sleep(0.5)
                let_go(first)
                says(first, "released")
                says(second, "held")

    def test_a_dead_holder_holds_nothing_there_either(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        """(case 99)"""
        with holder("job", url=postgres_url, home=tmp_path / "other") as first:
            says(first, "held")
            first.kill()
            first.wait()
            with job_lock("docs", catalog_url=postgres_url, wait=10):
                pass

    def test_waiting_ends_at_its_limit_and_leaves_no_session(
        self, postgres_server: Server, postgres_url: str, tmp_path: Path
    ) -> None:
        with holder("job", url=postgres_url, home=tmp_path / "other") as first:
            says(first, "held")
            with (
                pytest.raises(LockedError),
                job_lock("docs", catalog_url=postgres_url, wait=0.3),
            ):
                pass
        with holder("job", wait=10) as here:  # the flock was let go as well
            says(here, "held")
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pybak %'"
        wait_for(lambda: not postgres_server.run(ours), 10)

    def test_a_server_that_is_away_leaves_the_flock_alone(self) -> None:
        url = "postgresql://nobody@127.0.0.1:9/nothing"
        with job_lock("docs", catalog_url=url) as lock:
            assert lock.is_safe
            assert not is_free()

    def test_a_server_that_goes_away_leaves_the_flock(
        self, postgres_server: Server, postgres_url: str
    ) -> None:
        with job_lock("docs", catalog_url=postgres_url):
            postgres_server.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE 'pybak %'"
            )
            assert not is_free()
        assert is_free(postgres_url)
