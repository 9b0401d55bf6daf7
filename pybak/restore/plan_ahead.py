"""The plan of a restore, made by a helper process while the command imports Prefect."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Final, NamedTuple

from pybak.restore.plan import Wish, plan_restore
from pybak.restore.snapshot import Share
from pybak.staging import is_cancelled

PLAN: Final = f"{__name__}:plan_order"
"""What helpers are to call."""


class PlanOrder(NamedTuple):
    """What `plan_restore` is to do with; `work_dir` is also where a cancel is asked for."""

    shares: list[Share]
    target: bytes
    wish: Wish
    work_dir: Path
    tasks: int
    password: bytes | None

    def __repr__(self) -> str:
        """Say what it is about, without the password."""
        return f"PlanOrder({self.target!r}, {self.work_dir})"


def plan_order(argument: bytes) -> bytes:
    """Plan as the pickled `PlanOrder` says; gives a pickled `RestorePlan`. For helpers."""
    order: PlanOrder = pickle.loads(argument)  # noqa: S301 - the run's own
    plan = plan_restore(
        order.shares, order.target, order.wish, work_dir=order.work_dir, tasks=order.tasks,
        password=order.password, should_stop=lambda: is_cancelled(order.work_dir),
    )  # fmt: skip
    return pickle.dumps(plan)
