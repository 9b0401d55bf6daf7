"""The plain log file of a run, for those who want one beside Prefect's log store.

    2026-11-21 10:15:00 INFO  run 3f2a91c0-… of job documents

It is opened for each run and written to its end, so logrotate may move it away at any time. It has
what the flow logs, and its tasks where they work in the flow's process or its threads; lines of
tasks in worker processes of Dask go to Prefect alone, and `pybak logs` shows all.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from prefect import get_run_logger
from prefect.runtime import flow_run

from flows.support.screen import Screen
from pybak.display import escape, printable

_LOGGERS: Final = ("prefect.flow_runs", "prefect.task_runs")
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_LEVEL_COLUMNS: Final = len("ERROR")


@contextmanager
def log_file(path: str | None) -> Iterator[None]:
    """Write what this flow run logs inside to the end of a file too; nothing with None.

    The file is made for its owner's eyes only. One that can't be written is a warning.
    """
    if path is None:
        yield
        return
    place = Path(path).expanduser().absolute()
    try:
        handler = _FileHandler(place, str(flow_run.id))
    except OSError as error:
        _warn(place, error)
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
        if handler.trouble is not None:
            _warn(place, handler.trouble)


def _warn(place: Path, error: OSError) -> None:
    told = f"log file {printable(str(place))}: {(error.strerror or str(error)).lower()}"
    get_run_logger().warning("%s", told)
    Screen.current().warn(told)


class _FileHandler(logging.Handler):
    """Appends the lines of one flow run to a file; the first failure is kept in `trouble`."""

    def __init__(self, path: Path, run_id: str) -> None:
        """Open it, and make it and its folder if need be. Raises OSError."""
        super().__init__()
        self._run_id = run_id
        self.trouble: OSError | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, _FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(None, "it is no ordinary file")

    def filter(self, record: logging.LogRecord) -> bool:
        """Take only lines of this flow run: others may work in this process."""
        return str(getattr(record, "flow_run_id", "")) == self._run_id

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, whole, so that runs side by side can share a file."""
        if self.trouble is not None:
            return
        try:
            os.write(self._fd, _line(record))
        except OSError as error:
            self.trouble = error
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


def _line(record: logging.LogRecord) -> bytes:
    at = datetime.fromtimestamp(record.created).astimezone()
    task = getattr(record, "task_run_name", None)
    text = f"{task}: {record.getMessage()}" if task else record.getMessage()
    line = f"{at:%Y-%m-%d %H:%M:%S} {record.levelname:<{_LEVEL_COLUMNS}} {escape(text)}\n"
    return line.encode("utf-8", "backslashreplace")
