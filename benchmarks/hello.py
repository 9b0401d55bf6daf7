"""A Prefect hello-world flow on threads: the fixed cost that nobody can go below."""

from __future__ import annotations

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner


@task
def greet(number: int) -> int:
    """Do nothing, as a task."""
    return number


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def hello() -> list[int]:
    """Run four tasks that do nothing."""
    return [future.result() for future in [greet.submit(number) for number in range(4)]]


if __name__ == "__main__":
    hello()
