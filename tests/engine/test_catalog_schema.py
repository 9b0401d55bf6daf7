"""Catalogs of every release are brought up to date, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from catalogs import (
    RELEASED,
    file_of,
    is_sqlite,
    make_released,
    query,
    run_sql,
    schema_of,
    tables_of,
)
from sqlalchemy import Connection, Index, event, inspect
from sqlmodel import SQLModel, col, select

from pybak.catalog import schema
from pybak.catalog.engine import Database
from pybak.catalog.history import History
from pybak.catalog.models import Run, Verification
from pybak.catalog.runs import Catalog, CatalogError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OWN_INDEXES = {
    index.name: condition.dialect
    for table in SQLModel.metadata.tables.values()
    for index in table.indexes
    if (condition := index._ddl_if) is not None
}
"""Indexes that are made on one kind of database, and on which."""
EVERY = pytest.mark.parametrize("released", RELEASED)


@pytest.fixture
def another_catalog(
    request: pytest.FixtureRequest, any_catalog: str, tmp_path: Path
) -> Iterator[str]:
    """Give the URL of a second empty catalog of the same kind."""
    if is_sqlite(any_catalog):
        yield f"sqlite:///{tmp_path}/another.db"
        return
    server = request.getfixturevalue("postgres_server")
    name = any_catalog.rsplit("/", 1)[1] + "_2"
    yield server.new_database(name)
    server.drop_database(name)


def revision(database: Database) -> str | None:
    with database.reading() as connection:
        return schema.revision_of(connection, "here")


def differences(database: Database) -> list[object]:
    """What Alembic would change to come from the database to the models.

    It does not know that some indexes are made on one kind of database only.
    """

    def is_everywhere(item: object, *_: object) -> bool:
        return not (isinstance(item, Index) and item.name in OWN_INDEXES)

    opts = {"compare_type": True, "include_object": is_everywhere}
    with database.reading() as connection, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="autogenerate skipping .* expression-based index")
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, SQLModel.metadata))


def indexes_of(database: Database) -> set[str | None]:
    with database.reading() as connection, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipped unsupported reflection")
        return {found["name"] for found in inspect(connection).get_indexes("file_version")}


def test_a_new_catalog_is_what_the_models_say(any_catalog: str) -> None:
    database = Database(any_catalog)
    assert differences(database) == []
    kind = "sqlite" if is_sqlite(any_catalog) else "postgresql"
    own = {name for name, made_on in OWN_INDEXES.items() if made_on == kind}
    assert len(own) >= 2
    assert indexes_of(database) & OWN_INDEXES.keys() == own
    assert revision(database) == schema.HEAD
    database.close()


@EVERY
def test_a_released_catalog_becomes_what_a_new_one_is(
    any_catalog: str, another_catalog: str, released: str
) -> None:
    make_released(any_catalog, released)
    old, new = Database(any_catalog), Database(another_catalog)
    assert differences(old) == []
    assert revision(old) == schema.HEAD
    assert schema_of(old) == schema_of(new)
    old.close()
    new.close()


@EVERY
def test_all_its_rows_are_kept(any_catalog: str, released: str) -> None:
    make_released(any_catalog, released)
    catalog = Catalog(any_catalog)
    with catalog.session() as session:
        runs = session.exec(select(Run).order_by(col(Run.run_id))).all()
        checks = session.exec(select(Verification).order_by(col(Verification.id))).all()
    assert [(run.job, run.seq, run.status) for run in runs] == [
        ("docs", 1, "success"),
        ("docs", 2, "failed"),
        (os.fsdecode(b"/b\xff \\ \\xff"), 1, "running"),
    ]
    first = runs[0]
    assert first.started_at.replace(tzinfo=UTC) == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert first.finished_at is not None
    assert first.finished_at.microsecond == 250_000
    assert (first.archive, first.counts) == ("/backups/docs_1.zip", {"new": 3})
    assert runs[2].options == {"job": "\udcff"}
    assert (first.mode, first.tags, first.is_snapshot) == (None, [], False)
    expected = [] if released == "0001" else [(5.0, 3, 17), (100.0, 0, 300)]
    assert [(check.percent, check.slice, check.members) for check in checks] == expected
    catalog.close()


@pytest.mark.parametrize("released", ["0003", "0005"])
def test_versions_of_files_are_kept_and_are_no_references(any_catalog: str, released: str) -> None:
    make_released(any_catalog, released)
    catalog = Catalog(any_catalog)
    found = [
        (one.path, one.size, one.member) for one in History(catalog.database).all_versions("docs")
    ]
    assert sorted(found) == [(b"docs/a", 5, None), (b"docs/\xff", 7, None)]
    catalog.close()


@EVERY
def test_it_goes_on_where_it_was(any_catalog: str, released: str) -> None:
    make_released(any_catalog, released)
    catalog = Catalog(any_catalog)
    catalog.begin_run("new", kind="backup", job="docs", options={}, now=NOW)
    run = catalog.get_run("new")
    assert run is not None
    assert run.seq == 3
    assert catalog.newest_archive("docs") == "/backups/docs_1.zip"
    with catalog.writing() as session:
        session.add(Verification(archive="a", run_id="new", checked_at=NOW, status="success"))
    catalog.close()


def test_revisions_follow_each_other_and_are_all_known() -> None:
    config = Config()
    config.set_main_option("script_location", schema.migrations_folder())
    script = ScriptDirectory.from_config(config)
    newest_first = [found.revision for found in script.walk_revisions()]
    assert tuple(reversed(newest_first)) == schema.REVISIONS
    assert script.get_heads() == [schema.HEAD]
    assert tuple(name for name in schema.REVISIONS if name in RELEASED) == RELEASED


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own; give what `waitpid` tells of its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("before", [None, *RELEASED])
def test_processes_that_open_it_at_once_all_succeed(any_catalog: str, before: str | None) -> None:
    """(case 98)"""
    if before is not None:
        make_released(any_catalog, before)

    def begin(number: int) -> None:
        catalog = Catalog(any_catalog)
        catalog.begin_run(f"at-once-{number}", kind="backup", job="docs", options={}, now=NOW)
        catalog.close()

    with ThreadPoolExecutor(6) as pool:
        ends = list(pool.map(lambda number: in_child(lambda: begin(number)), range(6)))
    assert ends == [0] * 6
    assert query(any_catalog, "SELECT version_num FROM alembic_version") == [(schema.HEAD,)]
    found = query(any_catalog, "SELECT count(*) FROM run WHERE run_id LIKE 'at-once-%'")
    assert found == [(6,)]


def _open_until_killed(url: str, at: int) -> None:
    """Open a catalog; die by SIGKILL before the `at`th statement that comes after the lock."""
    seen = 0

    def count(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        nonlocal seen
        if seen or "BEGIN IMMEDIATE" in statement or "pg_advisory_xact_lock" in statement:
            seen += 1
        if seen > at:
            os.kill(os.getpid(), signal.SIGKILL)

    def die(_connection: Connection) -> None:
        if seen:
            os.kill(os.getpid(), signal.SIGKILL)

    from sqlalchemy.engine import Engine

    event.listen(Engine, "before_cursor_execute", count)
    if at < 0:
        event.listen(Engine, "commit", die)
        at = 1_000_000
    Database(url).open()


@pytest.mark.parametrize("before", [None, *RELEASED])
def test_a_kill_at_any_moment_leaves_the_old_schema_or_the_new_one(
    any_catalog: str, before: str | None
) -> None:
    """(case 94)"""
    if before is not None:
        make_released(any_catalog, before)
    old = tables_of(any_catalog)
    rows = query(any_catalog, "SELECT * FROM run ORDER BY run_id") if before else []
    kills = 0
    for at in [-1, *range(1, 200, 5)]:
        if in_child(lambda at=at: _open_until_killed(any_catalog, at)) == 0:  # type: ignore[misc]
            break
        kills += 1
        assert tables_of(any_catalog) == old, at
    else:
        pytest.fail("it was never made whole")
    assert kills >= 3
    if before is not None:
        after = query(any_catalog, "SELECT * FROM run ORDER BY run_id")
        assert [row[: len(rows[0])] for row in after] == rows
    database = Database(any_catalog)
    assert differences(database) == []
    database.close()


def test_a_migration_that_fails_changes_nothing(any_catalog: str) -> None:
    make_released(any_catalog, "0001")
    run_sql(any_catalog, "CREATE TABLE archive (of_another_program INTEGER);")
    before = tables_of(any_catalog)
    with pytest.raises(CatalogError, match="can't be used") as caught:
        Database(any_catalog).open()
    assert "\n" not in str(caught.value)
    assert tables_of(any_catalog) == before
    run_sql(any_catalog, "DROP TABLE archive;")
    Database(any_catalog).open()


def test_a_catalog_of_a_newer_pybak_is_told_and_left_alone(any_catalog: str) -> None:
    Catalog(any_catalog).close()
    run_sql(any_catalog, "UPDATE alembic_version SET version_num = '9001';")
    content = file_of(any_catalog).read_bytes() if is_sqlite(any_catalog) else b""
    for _ in range(2):
        with pytest.raises(CatalogError, match=r"newer PyBak \(schema 9001.*; update PyBak") as why:
            Catalog(any_catalog)
        assert "\n" not in str(why.value)
    assert query(any_catalog, "SELECT version_num FROM alembic_version") == [("9001",)]
    if is_sqlite(any_catalog):
        assert file_of(any_catalog).read_bytes() == content


def test_the_database_of_another_program_is_left_alone(any_catalog: str) -> None:
    run_sql(
        any_catalog,
        "CREATE TABLE alembic_version (version_num VARCHAR(32));"
        "CREATE TABLE flow_run (id INTEGER);"
        "INSERT INTO alembic_version VALUES ('a1b2c3');",
    )
    before = tables_of(any_catalog)
    with pytest.raises(CatalogError, match=r"belongs to another program\); set PYBAK_CATALOG_URL"):
        Database(any_catalog).open()
    assert tables_of(any_catalog) == before


def test_alembic_is_imported_only_to_migrate(tmp_path: Path) -> None:
    """It costs more than everything else that opening a catalog does."""
    code = (
        "import sys\nfrom pybak.catalog.runs import Catalog\nCatalog(sys.argv[1]).close()\n"
        "print('alembic' in sys.modules)"
    )
    make_released(f"sqlite:///{tmp_path}/old.db", "0002")
    seen = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, f"sqlite:///{tmp_path}/{name}.db"],
            capture_output=True, check=True, timeout=60, text=True,
        )
        for name in ("new", "new", "old", "old")
    ]  # fmt: skip
    assert [done.stdout for done in seen] == ["False\n", "False\n", "True\n", "False\n"]
    assert [done.stderr for done in seen] == [""] * 4
