"""How a restore is shared out, and what is left when a part of it dies."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import archives as forge
import pytest
from restoring import BIG, KINDS, as_nobody, expected, restore, tree
from restoring import plan as planned

from pybak.formats.archive import ONE_SHOT
from pybak.restore.extract import extract_batch
from pybak.restore.finish import close_up, finish, make_folders
from pybak.restore.items import Item, read_batch
from pybak.restore.outcome import Outcome


def killed_half_way(batch: Path) -> None:
    """Have a process die in the middle of the first member of `batch`."""
    child = os.fork()
    if child == 0:
        extract_batch(batch, progress=lambda _files, size, _name: os._exit(9) if size else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


class TestBatches:
    """How the work is shared out."""

    def test_batches_hold_everything_once_and_get_smaller(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        members = [forge.file(b"d%d/f%d" % (i % 40, i), b"x" * (i % 7) * 100) for i in range(2000)]
        members.append(forge.file(b"huge", BIG * 40, deflate=True))
        archive = forge.write(zip_path, members)
        plan = planned(archive, target, tmp_path, tasks=8)
        batches = [list(read_batch(path, Item)[1]) for path in plan.batches]
        assert sorted(item.path for batch in batches for item in batch) == sorted(
            member.name for member in members
        )
        assert len(batches) == 8
        assert [item.path for item in batches[0]] == [b"huge"]
        assert len(batches[1]) > 3 * len(batches[-1])
        for batch in batches:  # a folder's members lie together
            folders = [item.path.rpartition(b"/")[0] for item in batch]
            changes = sum(a != b for a, b in itertools.pairwise(folders))
            assert changes <= len(set(folders))

    @pytest.mark.parametrize("tasks", [1, 2, 5])
    def test_few_members_make_few_batches(
        self, zip_path: Path, target: Path, tmp_path: Path, tasks: int
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"%d" % i, b"x") for i in range(2)])
        plan = planned(archive, target, tmp_path, tasks=tasks)
        assert 1 <= len(plan.batches) <= min(tasks, 2)

    def test_an_empty_archive_makes_none(self, zip_path: Path, target: Path) -> None:
        for with_manifest in (False, True):
            result = restore(forge.write(zip_path, [], with_manifest=with_manifest), target)
            assert (result.plan.batches, result.problems, result.plan.total) == ((), [], 0)

    def test_a_batch_done_twice_leaves_the_same(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, KINDS, with_manifest=True)
        plan = planned(archive, target, tmp_path, tasks=1, overwrite="always")
        make_folders(plan)
        for _ in range(2):
            assert extract_batch(plan.batches[0]).failed == 0
        finish(plan)
        assert tree(target) == expected(KINDS)

    def test_two_workers_at_one_batch_do_not_meet(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        """A scheduler gives a batch away again though its first worker lives."""
        data = bytes(range(256)) * 40_000
        archive = forge.write(zip_path, [forge.file(b"big", data)], with_manifest=True)
        plan = planned(archive, target, tmp_path, tasks=1, overwrite="always")
        make_folders(plan)
        is_half_done, may_go_on = threading.Event(), threading.Event()
        later: list[Outcome] = []

        def wait_half_way(_files: int, size: int, _name: bytes) -> None:
            if size and not is_half_done.is_set():
                is_half_done.set()
                may_go_on.wait(10)

        second = threading.Thread(
            target=lambda: later.append(extract_batch(plan.batches[0], progress=wait_half_way))
        )

        def start_the_second(_files: int, size: int, _name: bytes) -> None:
            if size and not second.ident:
                second.start()
                assert is_half_done.wait(10)

        first = extract_batch(plan.batches[0], progress=start_the_second)
        assert (target / "big").read_bytes() == data
        may_go_on.set()
        second.join(10)
        assert (target / "big").read_bytes() == data
        assert (first.failed, later[0].failed) == (0, 0)
        assert first.problems_file != later[0].problems_file
        assert [path.name for path in target.iterdir()] == ["big"]

    @pytest.mark.parametrize("end", [finish, close_up])
    def test_what_a_killed_worker_left_is_removed_at_the_end(
        self, zip_path: Path, target: Path, tmp_path: Path, end: Callable
    ) -> None:
        """From the target itself and from folders below; other files stay."""
        members = [forge.file(b"top", BIG), forge.file(b"a/b/low", BIG)]
        archive = forge.write(zip_path, members)
        plan = planned(archive, target, tmp_path, tasks=10)
        make_folders(plan)
        (target / "a/.pybak-mine").write_bytes(b"mine")
        for batch in plan.batches:
            killed_half_way(batch)
        assert len(list(target.rglob(".pybak-*.tmp"))) == 2
        end(plan)
        assert [path.name for path in target.rglob(".pybak-*")] == [".pybak-mine"]

    @pytest.mark.parametrize("overwrite", ["never", "if-newer", "if-changed", "always"])
    def test_folders_that_an_ended_run_made_are_as_in_the_archive(
        self, open_dir: Path, overwrite: str
    ) -> None:
        """The next run may be told to leave them alone, and still gets into them (case 95)."""
        members = [
            forge.folder(b"d", 0o755), forge.folder(b"d/ro", 0o555), forge.file(b"d/ro/f", b"x"),
        ]  # fmt: skip
        archive = forge.write(open_dir / "a.zip", members, with_manifest=True)
        target = open_dir / "t"

        def work() -> None:
            (open_dir / "work").mkdir()
            made = planned(archive, target, open_dir / "work", tasks=1)
            make_folders(made)
            close_up(made)
            modes = {b"d": 0o755, b"d/ro": 0o555}
            assert {name: (stat.S_IMODE(row[0]), row[1]) for name, row in tree(target).items()} == {
                name: (mode, forge.NOON) for name, mode in modes.items()
            }
            assert restore(archive, target, overwrite=overwrite).counts == (1, 0, 0)
            found = {name: stat.S_IMODE(row[0]) for name, row in tree(target).items()}
            assert found == modes | {b"d/ro/f": 0o644}

        as_nobody(work)

    def test_one_file_goes_into_a_folder_that_is_read_only(self, open_dir: Path) -> None:
        """Which an earlier restore made, and which keeps its mode (case 87)."""
        members = [forge.folder(b"ro", 0o555), forge.file(b"ro/f", b"x"), forge.file(b"ro/g", b"x")]
        archive = forge.write(open_dir / "a.zip", members)
        target = open_dir / "t"

        def work() -> None:
            restore(archive, target)
            result = restore(archive, target, include=["ro/f"], overwrite="always")
            assert (result.counts, result.problems) == ((1, 0, 0), [])
            assert stat.S_IMODE((target / "ro").stat().st_mode) == 0o555

        as_nobody(work)

    def test_a_request_to_stop_is_heard_within_a_member(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        members = [forge.file(b"a", b"x"), forge.file(b"big", bytes(ONE_SHOT * 400), deflate=True)]
        archive = forge.write(zip_path, members)
        plan = planned(archive, target, tmp_path, tasks=1)
        make_folders(plan)
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > 1

        outcome = extract_batch(plan.batches[0], should_stop=should_stop)
        assert outcome.stopped
        assert list(target.glob("*")) in ([], [target / "a"])
        assert outcome.restored + outcome.failed < 2

    def test_progress_ends_with_the_counts(
        self, zip_path: Path, target: Path, tmp_path: Path
    ) -> None:
        archive = forge.write(zip_path, [forge.file(b"a", b"xyz"), forge.file(b"b", b"12")])
        plan = planned(archive, target, tmp_path, tasks=1)
        make_folders(plan)
        seen: list[tuple[int, int, bytes]] = []
        outcome = extract_batch(plan.batches[0], progress=lambda *now: seen.append(now))
        assert seen[-1] == (2, 5, b"")
        assert outcome.size == 5
