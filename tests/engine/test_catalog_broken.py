"""A catalog that can't be used is told in one line, and is never in the way of a run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from catalogs import is_sqlite, query, run_sql
from postgres import PASSWORD, Server
from sqlalchemy import Connection

from pybak.catalog.engine import Database
from pybak.catalog.recorder import RunRecorder
from pybak.catalog.runs import Catalog, CatalogError
from pybak.catalog.verifications import VerificationLog

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def recorder(url: str, run_id: str = "a") -> RunRecorder:
    return RunRecorder(url, run_id, kind="backup", job="docs", options={}, now=NOW)


def write_rows(database: Database, count: int = 1) -> None:
    with database.transaction() as connection:
        for _ in range(count):
            connection.exec_driver_sql(
                "INSERT INTO file_error (run_id, path, code, message) "
                f"VALUES ('a', 'b', 'c', '{'x' * 400}')"
            )


def check_told(url: str, *words: str) -> None:
    """Every way to the catalog says the same, in one line, without a password; none raises more."""
    noted = recorder(url).finish(status="success", counts={}, now=NOW)
    with VerificationLog(url) as log:
        assert log.next_slice("a", 20) is None
        checked = log.problem
    told = [noted, checked]
    ways: list[Callable[[], object]] = [
        lambda: Catalog(url),
        lambda: write_rows(Database(url)),
        lambda: Database(url).reading().__enter__(),
        lambda: Database(url).session().__enter__(),
    ]
    for way in ways:
        with pytest.raises(CatalogError) as caught:
            way()
        told.append(str(caught.value))
    for text in told:
        assert text is not None
        assert "\n" not in text
        assert PASSWORD not in text
        assert "secret" not in text
        for word in words:
            assert word in text, text


CORRUPT = {
    "text": lambda path: path.write_bytes(b"something else" * 100),
    "a byte": lambda path: path.write_bytes(b"x"),
    "half a sector": lambda path: path.write_bytes(b"x" * 511),
    "a sector": lambda path: path.write_bytes(b"x" * 513),
    "a cut header": lambda path: path.write_bytes(b"SQLite format 3\0"),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "a header alone": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(4080)),
}


@pytest.mark.parametrize("content", CORRUPT)
def test_a_file_that_is_no_database_is_told_and_never_overwritten(
    content: str, path: Path, url: str
) -> None:
    CORRUPT[content](path)
    before = path.read_bytes()
    check_told(url, str(path), "flows/rebuild.py", "move it away")
    assert path.read_bytes() == before
    path.rename(path.with_suffix(".old"))
    Catalog(url).close()


@pytest.mark.parametrize("where", [100, 4096])
def test_a_damaged_database_is_told_and_never_overwritten(where: int, path: Path, url: str) -> None:
    Catalog(url).close()
    content = bytearray(path.read_bytes())
    content[where : where + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"flows/rebuild\.py"):
        with_everything_read(url)
    assert path.read_bytes() == content


def test_a_database_that_was_cut_off_is_told_and_never_overwritten(path: Path, url: str) -> None:
    catalog = Catalog(url)
    write_rows(catalog.database, 500)
    catalog.close()
    content = path.read_bytes()[:20_000]
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"flows/rebuild\.py"):
        with_everything_read(url)
    assert path.read_bytes() == content


def with_everything_read(url: str) -> None:
    database = Database(url)
    with database.reading() as connection:
        for table in ("run", "verification", "job", "archive", "file_version"):
            connection.exec_driver_sql(f"SELECT * FROM {table}").all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sqlite:////proc/nothing/catalog.db", ("/proc/nothing", "PYBAK_CATALOG_URL")),
        ("sqlite:////dev/null/catalog.db", ("/dev/null", "PYBAK_CATALOG_URL")),
        ("sqlite:////dev/null", ("no ordinary file", "PYBAK_CATALOG_URL")),
        ("sqlite:////tmp", ("no ordinary file", "PYBAK_CATALOG_URL")),
        ("nonsense", ("no database URL", "sqlite:///FILE")),
        ("", ("no database URL", "sqlite:///FILE")),
        ("postgresql://u@host:secret/db", ("no database URL", "postgresql://")),
        ("oracle://u:secret@host/db", ("unknown kind oracle", "postgresql://")),
        ("postgresql+asyncpg://u:secret@host/db", ("unknown kind", "postgresql://")),
    ],
)
def test_a_place_that_can_not_be_is_told(name: str, words: tuple[str, ...]) -> None:
    check_told(name, "the catalog can't be used", *words)


def test_a_block_where_nothing_reads_blocks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    check_told("block:office", "block:office", "nothing is installed that reads blocks")


def test_a_pipe_is_told_and_not_waited_for(path: Path, url: str) -> None:
    os.mkfifo(path)
    check_told(url, "no ordinary file")


def test_a_catalog_that_another_program_holds_is_waited_for_and_told(url: str, path: Path) -> None:
    """Reading goes on beside it (case 98)."""
    Catalog(url).close()
    patient = f"{url}?timeout=0.2"
    with sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        noted = recorder(patient).finish(status="success", counts={}, now=NOW)
        assert noted is not None
        assert "database is locked" in noted
        assert "another program holds it" in noted
        assert Catalog(patient).backup_jobs() == []
        other.execute("ROLLBACK")
    assert recorder(patient).finish(status="success", counts={}, now=NOW) is None


def test_a_new_catalog_that_another_program_holds_is_told(path: Path, url: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        check_told(f"{url}?timeout=0.1", "locked", "another program holds it")


def test_a_lock_that_goes_in_time_is_waited_for(url: str, path: Path) -> None:
    Catalog(url).close()
    other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    timer.start()
    assert recorder(url).finish(status="success", counts={}, now=NOW) is None
    timer.join()
    other.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.needs_root
def test_a_full_disk_is_told_and_leaves_the_old_state(small_disk: Path) -> None:
    """(case 96)"""
    url = f"sqlite:///{small_disk}/catalog.db"
    catalog = Catalog(url)
    write_rows(catalog.database)
    filler = small_disk / "filler"
    with pytest.raises(CatalogError, match=r"full.*; free space on its disk"):
        write_rows(catalog.database, 5000)
    assert query(url, "SELECT count(*) FROM file_error") == [(1,)]
    assert query(url, "PRAGMA integrity_check") == [("ok",)]
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(2 << 20))
    begun = recorder(url)
    noted = begun.problem or begun.finish(status="success", counts={}, now=NOW)
    filler.unlink()
    assert recorder(url, "b").finish(status="success", counts={}, now=NOW) is None
    assert noted is None or "full" in noted
    catalog.close()


@pytest.mark.needs_root
def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    """(case 97)"""
    url = f"sqlite:///{small_disk}/catalog.db"
    Catalog(url).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    noted = recorder(url).finish(status="success", counts={}, now=NOW)
    assert noted is not None
    assert "see that it and its folder can be written" in noted
    check_told(f"sqlite:///{small_disk}/other/catalog.db", "Read-only file system", "be written")


@pytest.mark.needs_root
def test_a_file_that_may_not_be_changed_is_told(path: Path, url: str) -> None:
    Catalog(url).close()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        noted = recorder(url).finish(status="success", counts={}, now=NOW)
        os._exit(0 if noted and "be written" in noted else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_catalog_that_is_lost_between_two_writes_is_noted_once(any_catalog: str) -> None:
    begun = recorder(any_catalog)
    run_sql(any_catalog, "DROP TABLE run;")
    assert "flows/rebuild.py" in str(begun.finish(status="success", counts={}, now=NOW))
    assert begun.problem is not None


def _fail_after(connection: Connection, error: type[BaseException]) -> None:
    connection.exec_driver_sql("INSERT INTO job (name) VALUES ('half')")
    raise error


def test_an_error_of_the_caller_is_not_the_catalogs(any_catalog: str) -> None:
    """It undoes the change, and stays what it is."""
    catalog = Catalog(any_catalog)
    for error in (FileNotFoundError, KeyboardInterrupt, KeyError):
        with pytest.raises(error), catalog.connection() as connection:
            _fail_after(connection, error)
    assert query(any_catalog, "SELECT count(*) FROM job") == [(0,)]
    write_rows(catalog.database)
    catalog.close()


def test_what_a_raw_driver_raises_is_told_too(any_catalog: str) -> None:
    catalog = Catalog(any_catalog)
    with pytest.raises(CatalogError) as caught, catalog.connection() as connection:
        connection.connection.cursor().execute("SELECT nothing FROM nowhere")
    assert "\n" not in str(caught.value)
    mark = "?" if is_sqlite(any_catalog) else "%s"
    statement = f"INSERT INTO job (id, name) VALUES ({mark}, 'x')"
    with pytest.raises(CatalogError), catalog.connection() as connection:
        connection.connection.cursor().execute(statement, (10**30,))
    catalog.close()


def test_a_server_that_is_away_is_told() -> None:
    check_told(
        "postgresql://pybak:secret@127.0.0.1:1/catalog",
        "postgresql://pybak@127.0.0.1:1/catalog", "see that its server runs",
    )  # fmt: skip


def test_a_wrong_password_is_told_and_not_shown(postgres_server: Server) -> None:
    wrong = postgres_server.url(password="secret")
    check_told(wrong, "password authentication failed", "correct PYBAK_CATALOG_URL")
    check_told(f"{postgres_server.url(password=None)}?password=secret", "authentication failed")


def test_a_database_that_is_not_there_is_told(postgres_server: Server) -> None:
    check_told(postgres_server.url("nowhere"), '"nowhere" does not exist', "PYBAK_CATALOG_URL")


def test_a_user_without_rights_is_told(postgres_server: Server, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    postgres_server.run(f"CREATE ROLE guest_{name} LOGIN PASSWORD 'g'")
    guest = postgres_url.replace(postgres_url.split("@")[0], f"postgresql://guest_{name}:g")
    check_told(guest, "permission denied", "must allow this user")
    postgres_server.run(f"DROP ROLE guest_{name}")


def test_a_server_that_drops_us_is_told_and_found_again(
    postgres_server: Server, postgres_url: str
) -> None:
    catalog = Catalog(postgres_url)
    name = postgres_url.rsplit("/", 1)[1]
    kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    with pytest.raises(CatalogError, match="terminat"), catalog.connection() as connection:  # noqa: PT012 - it fails in the middle
        connection.exec_driver_sql("INSERT INTO job (name) VALUES ('half')")
        postgres_server.run(kill)
        connection.exec_driver_sql("INSERT INTO job (name) VALUES ('other half')")
    write_rows(catalog.database)
    postgres_server.run(kill)
    assert catalog.backup_jobs() == []
    assert query(postgres_url, "SELECT count(*) FROM file_error") == [(1,)]
    assert query(postgres_url, "SELECT count(*) FROM job") == [(0,)]
    catalog.close()


def test_a_job_with_too_long_a_name_for_an_index_is_told(postgres_url: str) -> None:
    noted = RunRecorder(
        postgres_url, "a", kind="backup", job=os.urandom(4000).hex(), options={}, now=NOW
    ).problem
    assert noted is not None
    assert "give the job a shorter name with --job" in noted
    assert "\n" not in noted


def test_opening_it_twice_in_a_process_keeps_its_locks(path: Path, url: str) -> None:
    """Closing any descriptor of the file would drop them (POSIX), and others would end its log."""
    first = Catalog(url)
    with first.database.reading() as held:
        held.exec_driver_sql("SELECT * FROM job").all()
        Catalog(url).close()
        code = (
            "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('{}')\ndb.close()"
        )
        read = "SELECT count(*) FROM file_error"
        subprocess.run([sys.executable, "-c", code.format(read), path], check=True)
        assert path.with_name("catalog.db-wal").exists()
        write_rows(first.database)
    assert query(url, read) == [(1,)]
    first.close()
