"""Logs of real flow runs: from the server, from SQLite and PostgreSQL; and the plain log file."""

from __future__ import annotations

import errno
import logging
import os
import stat
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prefect import flow, get_run_logger, task
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run
from prefect.server.database import orm_models
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from flows.support import log_file as log_file_module
from flows.support.log_file import log_file
from pybak.logs.database import DatabaseError, database_logs
from pybak.logs.server import ServerLogs
from pybak.prefect_api import PrefectApi

TABLES = ("log", "flow_run", "task_run")
RUN, TASK = uuid.UUID(int=1), uuid.UUID(int=2)
AT = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)


@task(task_run_name="part-1", cache_policy=None)  # type: ignore[arg-type]
def part() -> None:
    get_run_logger().warning("from a task")


@flow(persist_result=False)
def talkative(lines: int, path: str | None = None) -> str:
    with log_file(path):
        part()
        for number in range(lines):
            get_run_logger().info("line %d", number)
    get_run_logger().info("after")
    return str(flow_run.id)


@pytest.fixture
def server(prefect_server: str, in_prefect: None) -> ServerLogs:
    return ServerLogs(PrefectApi(prefect_server))


def test_all_lines_of_a_run_come_in_their_order(server: ServerLogs) -> None:
    """More than a server gives at once."""
    run = talkative(450)
    APILogWorker.drain_all(timeout=30)
    lines = list(server.lines(run))
    own = [line.text for line in lines if line.text.startswith("line ")]
    assert own == [f"line {number}" for number in range(450)]
    (warning,) = [line for line in lines if line.level == logging.WARNING]
    assert warning.text == "from a task"
    assert server.task_names(run)[str(warning.task_run)] == "part-1"
    assert [line.text for line in server.lines(run, least=logging.WARNING)] == ["from a task"]
    assert server.state(run) == "COMPLETED"
    assert server.state(str(uuid.uuid4())) is None
    assert list(server.lines(str(uuid.uuid4()))) == []
    late = list(server.lines(run, since=lines[-1].time))
    assert late[-1] == lines[-1]
    assert len(late) < len(lines)


def test_the_servers_database_has_the_same_lines(
    server: ServerLogs, prefect_api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = talkative(3)
    APILogWorker.drain_all(timeout=30)
    home = prefect_api.get("/admin/settings").json()["home"]
    database = database_logs({"PREFECT_HOME": home})
    assert database is not None
    assert list(database.lines(run)) == list(server.lines(run))
    assert database.state(run) == "COMPLETED"
    assert database.task_names(run) == server.task_names(run)
    database.close()


# ---- databases with Prefect's own tables


def statements(dialect: Any) -> list[str]:
    tables = orm_models.Base.metadata.tables
    return [str(CreateTable(tables[name]).compile(dialect=dialect)) for name in TABLES]


def rows() -> list[tuple[str, Mapping[str, Any]]]:
    """Give a flow run, a task run, and two lines, as a person would insert them."""
    common = {"created": AT, "updated": AT}
    return [
        ("flow_run", {"id": RUN, "state_type": "COMPLETED", **common}),
        ("task_run", {"id": TASK, "name": "part-1", "flow_run_id": RUN, **common}),
        ("log", {"id": uuid.UUID(int=11), "name": "prefect.task_runs", "level": 30,
                 "flow_run_id": RUN, "task_run_id": TASK, "message": "second",
                 "timestamp": AT + timedelta(microseconds=1), **common}),
        ("log", {"id": uuid.UUID(int=12), "name": "prefect.flow_runs", "level": 20,
                 "flow_run_id": RUN, "message": "first", "timestamp": AT, **common}),
        ("log", {"id": uuid.UUID(int=13), "name": "prefect.flow_runs", "level": 20,
                 "flow_run_id": uuid.UUID(int=9), "message": "another's", "timestamp": AT,
                 **common}),
    ]  # fmt: skip


def check(environ: Mapping[str, str]) -> None:
    database = database_logs(environ)
    assert database is not None
    lines = list(database.lines(str(RUN)))
    assert [line.text for line in lines] == ["first", "second"]
    assert [line.time for line in lines] == [AT, AT + timedelta(microseconds=1)]
    assert database.task_names(str(RUN)) == {str(lines[1].task_run): "part-1"}
    assert [line.text for line in database.lines(str(RUN), least=30)] == ["second"]
    since = AT + timedelta(microseconds=1)
    assert [line.text for line in database.lines(str(RUN), since=since)] == ["second"]
    assert database.state(str(RUN)) == "COMPLETED"
    assert database.state(str(uuid.uuid4())) is None
    database.close()


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql"])
def test_lines_are_read_from_postgresql(postgres_url: str, scheme: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TYPE state_type AS ENUM ('COMPLETED', 'RUNNING')")
        for statement in statements(postgresql.dialect()):
            bare = _without_references(statement)
            connection.execute(bare.encode())
        _insert(connection, rows())
    url = postgres_url.replace("postgresql", scheme, 1)
    check({"PREFECT_SERVER_DATABASE_CONNECTION_URL": url})


def _without_references(statement: str) -> str:
    """Leave out what refers to tables that the test does not make."""
    lines = [line for line in statement.splitlines() if "FOREIGN KEY" not in line]
    text = "\n".join(line for line in lines if line.strip())
    return text.replace(", \n)", "\n)")


def _insert(connection: Any, given: list[tuple[str, Mapping[str, Any]]]) -> None:
    for table, values in given:
        needed = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s "
            "AND is_nullable = 'NO' AND column_default IS NULL", (table,)
        ).fetchall()  # fmt: skip
        filled = {
            name: {"uuid": uuid.uuid4(), "text": "", "character varying": "", "json": "{}",
                   "jsonb": "{}", "boolean": False}.get(kind, 0)
            for name, kind in needed
        }  # fmt: skip
        row = {**filled, **values}
        names = ", ".join(row)
        marks = ", ".join(["%s"] * len(row))
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def test_a_database_server_that_is_away_is_one_line() -> None:
    url = "postgresql+asyncpg://me:s3cret@127.0.0.1:9/prefect"
    database = database_logs({"PREFECT_SERVER_DATABASE_CONNECTION_URL": url})
    assert database is not None
    with pytest.raises(DatabaseError) as raised:
        list(database.lines(str(RUN)))
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("nonsense " * 999)
    database = database_logs({"PREFECT_HOME": str(tmp_path)})
    assert database is not None
    with pytest.raises(DatabaseError, match="can't be read"):
        database.state(str(RUN))
    assert sorted(os.listdir(tmp_path)) == ["prefect.db"]
    assert sqlite.dialect().name == "sqlite"


# ---- the plain log file


def test_the_log_file_gets_the_runs_lines_for_its_owner_alone(
    in_prefect: None, tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "pybak.log"
    talkative(2, str(path))
    talkative(1, str(path))
    lines = path.read_text().splitlines()
    assert [line[20:] for line in lines if "Finished" not in line] == [
        "WARNING part-1: from a task", "INFO  line 0", "INFO  line 1",
        "WARNING part-1: from a task", "INFO  line 0",
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    datetime.strptime(lines[0][:19], "%Y-%m-%d %H:%M:%S").astimezone()


def test_a_log_file_that_is_moved_away_is_made_again(in_prefect: None, tmp_path: Path) -> None:
    path = tmp_path / "pybak.log"
    talkative(1, str(path))
    path.rename(tmp_path / "pybak.log.1")
    talkative(1, str(path))
    assert path.read_text().splitlines()[-1].endswith("line 0")


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "full"])
def test_a_log_file_that_can_not_be_written_is_a_warning(
    kind: str,
    in_prefect: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "pybak.log"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:

        def full(_record: object) -> bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(log_file_module, "_line", full)
    assert talkative(1, str(path))
    told = [one for one in caplog.records if "log file" in one.getMessage()]
    assert len(told) == 1
