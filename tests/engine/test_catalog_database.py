"""The catalog's database: what a transaction holds, who waits for whom, what a kill leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from catalogs import file_of, is_sqlite, query
from postgres import Server
from sqlalchemy import Connection

from pybak.catalog.engine import Database
from pybak.catalog.models import Archive, FileVersion, Run, Volume
from pybak.catalog.runs import Catalog, CatalogError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def database(any_catalog: str) -> Database:
    return Database(any_catalog)


def add(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(f"INSERT INTO job (name) VALUES ('{name}')")


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM job").scalar_one())


def names(url: str) -> list[str]:
    return [str(row[0]) for row in query(url, "SELECT name FROM job ORDER BY name")]


def version(path: str, **more: object) -> FileVersion:
    values = {
        "job_id": 1, "path": path, "kind": "file", "size": 1, "mtime_ns": 1, "ctime_ns": 1,
        "inode": 1, "mode": 0o644, "uid": 0, "gid": 0, "archive_id": 1, "first_seq": 1,
    }  # fmt: skip
    return FileVersion.model_validate(values | more)


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/deep/catalog.db")
    assert not database.is_postgres
    assert database.where == f"{tmp_path}/deep/catalog.db"
    assert not (tmp_path / "deep").exists()
    database.open()
    assert (tmp_path / "deep" / "catalog.db").exists()
    database.close()


def test_its_place_is_told_without_the_password(tmp_path: Path) -> None:
    database = Database("postgresql://me:secret@db.example:5433/pybak?password=secret&sslmode=no")
    assert database.is_postgres
    assert database.where == "postgresql://me@db.example:5433/pybak"


def test_a_closed_database_opens_again(database: Database, any_catalog: str) -> None:
    with database.transaction() as connection:
        add(connection, "a")
    database.close()
    database.close()
    with database.transaction() as connection:
        add(connection, "b")
    assert names(any_catalog) == ["a", "b"]
    database.close()


def test_sqlite_syncs_every_commit_and_keeps_references(tmp_path: Path) -> None:
    """What was committed is there after the power failed: 2 is FULL."""
    database = Database(f"sqlite:///{tmp_path}/catalog.db")
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with database.reading() as connection:
        for pragma, value in expected.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value
    database.close()


def test_a_volume_needs_its_archive(database: Database) -> None:
    with pytest.raises(CatalogError, match=r"(?i)foreign key"), database.writing() as session:
        session.add(Volume(archive_id=77, number=0, uri="/x", size=1))
    database.close()


def test_readers_go_on_while_one_writes_and_see_the_old_state(
    database: Database, any_catalog: str
) -> None:
    """(case 98)"""
    database.open()
    with database.transaction() as writer, database.reading() as reader:
        add(writer, "new")
        assert count(reader) == 0
        assert names(any_catalog) == []
    with database.reading() as reader:
        assert count(reader) == 1
    database.close()


@pytest.mark.parametrize("raw", [False, True])
def test_a_reader_sees_one_state_however_long_it_reads(database: Database, raw: bool) -> None:
    """By its driver too."""
    database.open()
    with database.reading() as reader:
        cursor = reader.connection.cursor()

        def seen() -> int:
            if not raw:
                return count(reader)
            cursor.execute("SELECT count(*) FROM job")
            return int(cursor.fetchone()[0])

        assert seen() == 0
        with database.transaction() as writer:
            add(writer, "new")
        assert seen() == 0
        cursor.close()
    with database.reading() as reader:
        assert count(reader) == 1
    database.close()


def test_writers_on_sqlite_wait_for_each_other_even_if_they_read_first(tmp_path: Path) -> None:
    """(case 98)"""
    url = f"sqlite:///{tmp_path}/catalog.db"
    Database(url).open()
    ready = threading.Barrier(6)

    def write(_: int) -> None:
        database = Database(url)
        ready.wait()
        for _ in range(10):
            with database.transaction() as connection:
                add(connection, f"job {count(connection)}")
        database.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert names(url) == sorted(f"job {number}" for number in range(60))


def test_threads_may_share_a_database(database: Database, any_catalog: str) -> None:
    def write(number: int) -> None:
        with database.transaction() as connection:
            add(connection, str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert len(names(any_catalog)) == 24
    database.close()


@pytest.mark.parametrize("moment", ["inside", "at the commit"])
def test_a_kill_inside_a_transaction_leaves_the_old_state(any_catalog: str, moment: str) -> None:
    """(case 94)"""
    catalog = Catalog(any_catalog)
    catalog.begin_run("a", kind="backup", job="docs", options={}, now=NOW)
    catalog.close()
    child = os.fork()
    if child == 0:
        database = Database(any_catalog)
        with database.transaction() as connection:
            connection.exec_driver_sql("UPDATE run SET status = 'success'")
            for number in range(3000):
                add(connection, f"{number:01000}")
            if moment == "inside":
                os.kill(os.getpid(), signal.SIGKILL)
            from sqlalchemy import event

            def die(_: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            event.listen(database.engine, "commit", die)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert names(any_catalog) == []
    assert query(any_catalog, "SELECT status FROM run") == [("running",)]
    if is_sqlite(any_catalog):
        assert query(any_catalog, "PRAGMA integrity_check") == [("ok",)]
    after = Catalog(any_catalog)
    after.finish_run("a", status="failed", counts={}, now=NOW)
    after.close()


def test_kills_at_random_moments_leave_whole_transactions(any_catalog: str) -> None:
    """Each writes two rows or none (cases 93, 94)."""
    Database(any_catalog).open()
    found: list[str] = []
    for attempt in range(100):
        if attempt >= 8 and found:
            break
        child = os.fork()
        if child == 0:
            database = Database(any_catalog)
            for number in range(100_000):
                with database.transaction() as connection:
                    add(connection, f"{attempt} {number} first")
                    add(connection, f"{attempt} {number} second")
            os._exit(1)
        time.sleep(0.05 + 0.03 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = names(any_catalog)
        first = [name.removesuffix(" first") for name in found if name.endswith("first")]
        second = [name.removesuffix(" second") for name in found if name.endswith("second")]
        assert first == second
    assert found


@pytest.mark.parametrize("size", [2703, 2705, 4096, 30_000])
def test_names_of_any_length_are_kept_and_found(database: Database, size: int) -> None:
    """PostgreSQL's usual indexes take 2704 bytes at most (case 3)."""
    path = os.urandom(size // 2).hex()
    with database.writing() as session:
        session.add(version(path))
        session.add(Archive(run_id="a", job="j", name="/x", format="zip", size=1, created_at=NOW))
    mark = "%s" if database.is_postgres else "?"
    with database.reading() as connection:
        found = connection.exec_driver_sql(
            f"SELECT size FROM file_version WHERE path = {mark}", (path,)
        )
        assert found.all() == [(1,)]
    database.close()


def test_numbers_of_63_bits_are_kept(database: Database) -> None:
    most = 2**63 - 1
    with database.writing() as session:
        session.add(version("a", size=most, mtime_ns=-most, inode=most, uid=2**32 - 1))
        session.add(version("b", device=-1))
    with database.session() as session:
        kept = session.get(FileVersion, 1)
    assert kept is not None
    assert (kept.size, kept.mtime_ns, kept.inode, kept.uid) == (most, -most, most, 2**32 - 1)
    database.close()


def test_times_do_not_depend_on_the_zone_of_the_server(any_catalog: str) -> None:
    catalog = Catalog(any_catalog)
    catalog.begin_run("a", kind="backup", job="docs", options={}, now=NOW)
    run = catalog.get_run("a")
    assert run is not None
    assert run.started_at.replace(tzinfo=None).isoformat() == "2026-11-21T12:00:00"
    with catalog.session() as session:
        from sqlmodel import col, select

        before = select(Run.run_id).where(col(Run.started_at) <= NOW)
        assert session.exec(before).all() == ["a"]
    catalog.close()


def test_what_a_session_gave_stays_usable_after_it(database: Database) -> None:
    with database.writing() as session:
        session.add(version("a"))
    with database.session() as session:
        found = session.get(FileVersion, 1)
    assert found is not None
    assert (found.path, found.kind) == ("a", "file")
    database.close()


def test_a_catalog_keeps_its_mode_and_place(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/home/catalog.db"
    database = Database(url)
    with database.transaction() as connection:
        add(connection, "a")
        assert {path.stat().st_mode & 0o777 for path in file_of(url).parent.iterdir()} == {0o600}
    database.close()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_named_as_people_name_it(scheme: str, postgres_url: str) -> None:
    database = Database(postgres_url.replace("postgresql", scheme, 1))
    with database.reading() as connection:
        assert count(connection) == 0
    database.close()


def test_a_transaction_on_postgresql_does_not_wait_for_ever(
    postgres_server: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybak.catalog.engine.BUSY_SECONDS", 1)
    holder, waiter = Database(postgres_url), Database(postgres_url)
    with holder.transaction() as connection:
        connection.exec_driver_sql("LOCK TABLE job IN EXCLUSIVE MODE")
        with (
            pytest.raises(CatalogError, match="another program holds it"),
            waiter.transaction() as other,
        ):
            add(other, "a")
    holder.close()
    waiter.close()
