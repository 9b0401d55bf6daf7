"""Any history of runs and prunes: what is listed holds what it held; nothing useless is left."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning import DIFFERENTIAL, FULL, INCREMENTAL, Shelf

NAMES = st.sampled_from("abcdef")
MODES = st.sampled_from([FULL, INCREMENTAL, INCREMENTAL, DIFFERENTIAL])
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "keep_last": st.integers(1, 3),
        "keep_weekly": st.integers(1, 2),
        "keep_tag": st.just(["keep"]),
        "keep_within": st.sampled_from(["2d", "5d"]),
    },
).filter(bool)


@dataclass(frozen=True)
class Step:
    """A run: names that are written and deleted since the one before; or a prune."""

    written: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    mode: str = FULL
    status: str = "success"
    tagged: bool = False
    policy: dict[str, object] | None = None


RUNS = st.builds(
    Step,
    written=st.frozensets(NAMES, max_size=3),
    deleted=st.frozensets(NAMES, max_size=2),
    mode=MODES,
    status=st.sampled_from(["success", "success", "partial"]),
    tagged=st.booleans(),
)
PRUNES = st.builds(Step, policy=POLICIES)


@settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.lists(RUNS | RUNS | PRUNES, min_size=2, max_size=14))
def test_every_snapshot_that_is_listed_holds_what_it_held(steps: list[Step]) -> None:
    """(cases 94, 109)"""
    with tempfile.TemporaryDirectory() as place:
        shelf = Shelf(Path(place) / "backups", f"sqlite:///{place}/catalog.db")
        try:
            _live(shelf, steps)
        finally:
            shelf.database.close()


def _live(shelf: Shelf, steps: list[Step]) -> None:
    remembered: dict[str, dict[str, int]] = {}
    now: dict[str, int] = {}
    for number, step in enumerate(steps, 1):
        if step.policy is not None:
            shelf.prune(**step.policy)
        else:
            now = {name: of for name, of in now.items() if name not in step.deleted}
            now |= dict.fromkeys(step.written, number)
            mode = step.mode if remembered else FULL
            if mode == DIFFERENTIAL and shelf.history.newest_full("docs") is None:
                mode = FULL
            base = {
                FULL: None,
                INCREMENTAL: shelf.history.newest("docs"),
                DIFFERENTIAL: shelf.history.newest_full("docs"),
            }[mode]
            before = remembered[base.run_id] if base is not None else {}
            made = shelf.add(
                {name: of for name, of in now.items() if before.get(name) != of},
                mode=mode, gone=sorted(before.keys() - now.keys()), status=step.status,
                tags=["keep"] if step.tagged else [],
            )  # fmt: skip
            remembered[made.run_id] = dict(now)
        listed = shelf.history.snapshots("docs")
        assert bool(listed) == bool(remembered)
        for snapshot in listed:
            assert shelf.held(snapshot) == remembered[snapshot.run_id]
    _nothing_useless(shelf)


def _nothing_useless(shelf: Shelf) -> None:
    """After a last prune, files and rows are those of archives that kept snapshots need."""
    if not shelf.history.snapshots("docs"):
        return
    shelf.prune(keep_last=1)
    listed = shelf.history.snapshots("docs")
    by_run = {one.run_id: one for one in shelf.history.archives_of_job("docs")}
    needed = {by_run[one.run_id].name for one in listed}
    for snapshot in listed:
        needed |= {one.name for one in shelf.history.archives(snapshot)}
    assert {one.name for one in by_run.values()} == needed
    assert shelf.files() == sorted(Path(name).name for name in needed)
