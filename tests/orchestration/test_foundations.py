"""What the program relies on without being told it may: private names, and cheap imports."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pybak

HEAVY = ("prefect", "prefect_dask", "dask", "distributed", "boto3", "google.cloud")


def python(code: str, cwd: Path) -> str:
    """Run code in a fresh interpreter; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_whole_engine_imports_without_prefect_dask_or_a_cloud(tmp_path: Path) -> None:
    names = [
        found.name for found in pkgutil.walk_packages(pybak.__path__, "pybak.")
        if not found.name.endswith("__main__")
    ]  # fmt: skip
    assert len(names) > 20
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python(code, tmp_path).strip() == "[]"


def test_a_commands_help_and_its_server_search_need_no_prefect(tmp_path: Path) -> None:
    """The server starts while Prefect is imported, so what starts it must not import it."""
    code = "import sys, flows.support.session; print('prefect' in sys.modules)"
    assert python(code, tmp_path).strip() == "False"


def test_no_flow_module_is_named_like_another_module() -> None:
    """Prefect and `python flows/x.py` put that folder first on the path."""
    import flows

    names = {found.name for found in pkgutil.iter_modules(flows.__path__)}
    assert names.isdisjoint(sys.stdlib_module_names)
    for name in names:
        assert not any((Path(folder) / f"{name}.py").exists() for folder in _site_folders()), name


def _site_folders() -> list[str]:
    return [folder for folder in sys.path if folder.endswith("site-packages")]


class TestPrivateNamesOfPrefect:
    """Names that Prefect may take away in any release; pyproject.toml pins it."""

    def test_collections_that_are_set_to_nothing_are_not_imported(self, tmp_path: Path) -> None:
        code = (
            "import sys\n"
            "from prefect._internal.plugins import collections\n"
            "assert collections._collections is None\n"
            "collections._collections = {}\n"
            "assert collections.load_prefect_collections() == {}\n"
            "print('prefect_dask' in sys.modules)"
        )
        assert python(code, tmp_path).strip() == "False"

    @pytest.mark.parametrize("name", ["PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL"])
    def test_the_server_reads_the_variables_that_make_it_temporary(self, name: str) -> None:
        from prefect.server.api import server

        from flows.support.server import _SERVER_SETTINGS

        assert name in _SERVER_SETTINGS
        assert f'os.getenv("{name}")' in inspect.getsource(server.create_app)

    def test_the_public_variables_that_quicken_the_server_are_settings(self) -> None:
        from prefect.settings.base import PrefectBaseSettings
        from prefect.settings.models.root import Settings

        from flows.support import environment
        from flows.support.server import _SERVER_SETTINGS

        def known(model: type[PrefectBaseSettings]) -> set[str]:
            names: set[str] = set()
            prefix = model.model_config.get("env_prefix", "")
            for name, field in model.model_fields.items():
                kind = field.annotation
                if isinstance(kind, type) and issubclass(kind, PrefectBaseSettings):
                    names |= known(kind)
                else:
                    names.add(f"{prefix}{name}".upper())
            return names

        asked = {*_SERVER_SETTINGS, *environment._ALWAYS, *environment._QUIET}
        public = {name for name in asked if name.startswith("PREFECT_")} - {
            name for name in asked if name.startswith("PREFECT__")
        }
        logging = {name for name in public if name.startswith("PREFECT_LOGGING_HANDLERS_")}
        assert public - logging <= known(Settings)
        assert logging  # these override logging.yml, where any key is possible

    @pytest.mark.parametrize("name", ["backup", "restore", "verify"])
    def test_a_flows_annotations_are_objects(self, name: str) -> None:
        """`serve` pickles flow functions by value, without what only annotations name."""
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        hints = inspect.get_annotations(flow.fn).values()
        assert not any(isinstance(hint, str) for hint in hints)

    def test_every_flow_survives_the_pickling_of_serve(self) -> None:
        import cloudpickle

        from flows.backup import backup

        copy = cloudpickle.loads(cloudpickle.dumps(backup))
        checked = copy.validate_parameters({"sources": ["/x"], "options": {"level": 9}})
        assert checked["options"].level == 9
