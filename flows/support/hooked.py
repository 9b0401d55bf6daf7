"""The commands of --before and --after around a run, one pair at a time for each job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from prefect import get_run_logger

from flows.support.screen import Screen
from pybak.catalog.locks import job_lock, waiting_seconds
from pybak.home import catalog_url
from pybak.hooks import environment, run_hook
from pybak.options.notices import HookOptions, NoticeOptions
from pybak.stages import stage
from pybak.units import parse_duration

AFTERWARDS: Final = ("status", "run_id", "archive", "message")
"""What only --after is told, as PYBAK_STATUS and so on."""
STOPPED_SECONDS: Final = 20.0
"""How long --after may take, at most, once the run was told to stop."""


@dataclass(frozen=True)
class Hooks:
    """What one run has the shell do; without commands it does nothing."""

    kind: str
    what: str
    before: str | None = None
    after: str | None = None
    seconds: float = 0.0
    wait: float | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.before or self.after)

    @contextmanager
    def alone(self, screen: Screen, stopped: Callable[[], bool]) -> Iterator[None]:
        """Keep other runs of the job from theirs: what one mounts, another must not unmount.

        Raises LockedError, and Interrupted once `stopped` says so.
        """
        with ExitStack() as stack:
            if self:
                stack.enter_context(
                    job_lock(
                        f"{self.what} (commands of its {self.kind})", wait=self.wait,
                        catalog_url=catalog_url(), cancelled=stopped, on_wait=screen.waiting,
                    )
                )  # fmt: skip
            yield

    def run_before(self, screen: Screen, stopped: Callable[[], bool]) -> None:
        """Run the command of --before. Raises HookError, Interrupted."""
        if self.before:
            with stage("before"):
                self._run("--before", self.before, {}, screen, self.seconds, stopped)

    def run_after(
        self, screen: Screen, stopped: Callable[[], bool], told: Mapping[str, str | None]
    ) -> None:
        """Run the command of --after, which knows how the run ended. Raises as `run_before`.

        In a run that was stopped it puts things in order all the same, but must be quick.
        """
        if not self.after:
            return
        with stage("after"):
            if stopped():
                seconds = min(self.seconds, STOPPED_SECONDS)
                self._run("--after", self.after, told, screen, seconds, lambda: False)
            else:
                self._run("--after", self.after, told, screen, self.seconds, stopped)

    def _run(
        self, option: str, command: str, told: Mapping[str, str | None], screen: Screen,
        seconds: float, stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        logger = get_run_logger()
        # A command that starts a run must not start itself again by it.
        known = {
            **dict.fromkeys((*AFTERWARDS, "before", "after")), **told, "kind": self.kind,
            "job": self.what,
        }  # fmt: skip
        environ = environment(os.environ, **known)
        screen.phase(f"running {option}")
        run_hook(
            command, option=option, environ=environ, seconds=seconds,
            log=lambda line: logger.info("%s: %s", option, line), cancelled=stopped,
        )  # fmt: skip


def hooks_of(kind: str, what: str, options: NoticeOptions) -> Hooks:
    """Give the commands that the options of a run name; a dry run has none."""
    if not isinstance(options, HookOptions) or getattr(options, "dry_run", False):
        return Hooks(kind, what)
    return Hooks(
        kind, what, options.before, options.after,
        parse_duration(options.hook_timeout).total_seconds,
        waiting_seconds(
            wait=getattr(options, "wait", False), limit=getattr(options, "wait_limit", None)
        ),
    )  # fmt: skip
