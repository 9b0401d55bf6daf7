"""The catalog's address in a Prefect block: loaded by name, shown nowhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from commands import PROJECT, Commands
from prefect.blocks.system import Secret
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from blocks import CatalogUrl
from blocks.catalog import load_catalog_url
from flows.support import catalogs
from pybak.catalog.recorder import RunRecorder
from pybak.catalog.runs import Catalog, CatalogError
from pybak.errors import PlanError, StorageError

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    catalogs.load_catalog_url.cache_clear()
    yield
    catalogs.load_catalog_url.cache_clear()


@pytest.fixture
def stored(in_prefect: None, postgres_url: str) -> Iterator[str]:
    """Give the name of a block that holds the URL of a PostgreSQL database."""
    CatalogUrl(url=postgres_url).save("office", overwrite=True)
    yield "office"
    CatalogUrl.delete("office")


class TestStandards(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    @pytest.fixture
    def block(self) -> type[CatalogUrl]:
        return CatalogUrl

    test_has_a_valid_image = None  # type: ignore[assignment]  # it has no logo


def test_a_catalog_is_opened_by_the_name_of_its_block(stored: str, postgres_url: str) -> None:
    catalog = Catalog(f"block:{stored}")
    catalog.begin_run("a", kind="backup", job="docs", options={}, now=NOW)
    assert catalog.database.is_postgres
    catalog.close()
    direct = Catalog(postgres_url)
    assert direct.get_run("a") is not None
    direct.close()


def test_the_url_shows_nowhere(stored: str, postgres_url: str, prefect_api: httpx.Client) -> None:
    """(case 63)"""
    block = CatalogUrl.load(stored)
    assert isinstance(block, CatalogUrl)
    secret = postgres_url.split("@")[0]
    for shown in (repr(block), str(block), block.model_dump_json(), repr(block.model_dump())):
        assert secret not in shown
    answer = prefect_api.post("/block_documents/filter", json={})
    assert answer.status_code == 200
    assert "office" in answer.text
    assert secret not in answer.text


@pytest.mark.parametrize("name", ["office", "pybak-catalog-url/office"])
def test_a_block_is_named_with_or_without_its_type(
    name: str, stored: str, postgres_url: str
) -> None:
    assert load_catalog_url(name) == postgres_url


def test_prefects_own_secret_block_does_as_well(in_prefect: None, tmp_path: Path) -> None:
    Secret(value=f"sqlite:///{tmp_path}/c.db").save("place", overwrite=True)  # type: ignore[arg-type]
    Catalog("block:secret/place").close()
    assert (tmp_path / "c.db").exists()
    Secret(value={"a": 1}).save("place", overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="block secret/place: holds no text"):
        load_catalog_url("secret/place")


@pytest.mark.parametrize("name", ["missing", "pybak-catalog-url/", "s3-bucket/mine", ""])
def test_a_block_that_is_not_there_never_stands_in_the_way(name: str, in_prefect: None) -> None:
    with pytest.raises(CatalogError, match=f"^PYBAK_CATALOG_URL=block:{name}: block {name}: "):
        Catalog(f"block:{name}")
    noted = RunRecorder(f"block:{name}", "a", kind="backup", job="j", options={}, now=NOW).problem
    assert noted is not None
    assert "\n" not in noted


def test_a_block_that_holds_no_database_is_told_without_what_it_holds(in_prefect: None) -> None:
    CatalogUrl(url="hunter2").save("odd", overwrite=True)
    with pytest.raises(CatalogError, match=r"^block:odd: .*no database URL") as caught:
        Catalog("block:odd")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_away_is_told() -> None:
    settings = {
        PREFECT_API_URL: "http://127.0.0.1:9/api",
        PREFECT_SERVER_EPHEMERAL_ENABLED: False,
    }
    with (
        temporary_settings(settings),
        pytest.raises(StorageError, match="can't be reached; start it, or set PYBAK_CATALOG_URL"),
    ):
        load_catalog_url("office")


def test_a_process_without_prefect_gets_it_too_and_stays_without(
    stored: str, prefect_server: str, postgres_url: str
) -> None:
    """A command looks for its archive before its flow starts."""
    code = (
        "import sys\nfrom pybak.catalog.engine import Database\n"
        "database = Database('block:office')\ndatabase.open()\n"
        "print(database.where, 'prefect' in sys.modules)\n"
        "try: Database('block:missing').open()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True,
        env={"PREFECT_API_URL": prefect_server, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.endswith(" False")
    assert first.startswith("postgresql://pybak@127.0.0.1")
    assert second.startswith("CatalogError PYBAK_CATALOG_URL=block:missing: block missing: there")


def test_a_backup_keeps_its_runs_where_the_block_says(
    stored: str, postgres_url: str, run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    env = {"PYBAK_CATALOG_URL": f"block:{stored}"}
    done = run_command("backup", "docs", "--to", "out", "--json", env=env)
    assert done.rc == 0, done
    assert "catalog" not in done.stderr
    catalog = Catalog(postgres_url)
    assert catalog.archives() == [done.json["archive"]]
    catalog.close()
    assert postgres_url.split("@")[0] not in str(done)
