"""Restores put together from their parts, and trees compared by a walk of their own."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import archives as forge

from pybak.problems import (
    DELETED,
    Problem,
    read_problems,
)
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.plan import RestorePlan, Wish, plan_restore, prepare
from pybak.restore.rehearse import rehearse
from pybak.restore.snapshot import Share

BIG = bytes(range(256)) * 4096 * 3


SECOND = 1_000_000_000


class Result:
    """The parts of a restore put together."""

    def __init__(self, plan: RestorePlan, parts: list, folder_problems: Iterable[Problem]) -> None:
        self.plan = plan
        self.restored = sum(part.restored for part in parts)
        self.skipped = plan.skipped + sum(part.skipped for part in parts)
        self.failed = plan.failed + sum(part.failed for part in parts)
        self.deleted = sum(part.deleted for part in parts)
        self.problems = [*plan.problems, *folder_problems]
        for part in parts:
            self.problems += read_problems(part.problems_file)
        self.deleted_paths = {note.path for note in self.problems if note.code == DELETED}
        self.problems = [note for note in self.problems if note.code != DELETED]

    @property
    def codes(self) -> dict[str, str]:
        return {problem.path: problem.code for problem in self.problems}

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.restored, self.skipped, self.failed


Archive = bytes | Sequence[bytes] | Sequence[Share]
"""A file, the volumes of an archive, or a whole snapshot."""


def shares(archive: Archive) -> Sequence[Share]:
    """Give what a restore takes."""
    if isinstance(archive, bytes):
        return [Share(os.fsdecode(archive), (archive,))]
    if isinstance(archive[0], bytes):
        return [Share(os.fsdecode(archive[0]), tuple(archive))]
    return archive


def plan(archive: Archive, target: Path, work_dir: Path, **more: Any) -> RestorePlan:
    how = {key: more.pop(key) for key in ("tasks", "password") if key in more}
    how.setdefault("tasks", 3)
    return plan_restore(
        shares(archive), os.fsencode(target), Wish(**more), work_dir=work_dir, **how
    )


def carry_out(made: RestorePlan, password: bytes | None = None) -> Result:
    folders = make_folders(made)
    parts = [extract_batch(batch, password=password) for batch in made.batches]
    parts.append(finish(made, password=password))
    return Result(made, parts, folders.problems)


def restore(archive: Archive, target: Path, **options: Any) -> Result:
    with tempfile.TemporaryDirectory() as work:
        made = plan(archive, target, Path(work), **options)
        assert len(made.batches) <= options.get("tasks", 3)
        result = carry_out(made, options.get("password"))
    assert result.restored + result.skipped + result.failed == made.total
    names = [name for _, _, files in os.walk(target) for name in files]
    assert not [name for name in names if name.startswith(".pybak-")]
    return result


def foretell(archive: Archive, target: Path, **options: Any) -> tuple[int, int, int]:
    """Give what a dry run counts as restored, skipped, failed."""
    password = options.pop("password", None)
    prepared = prepare(
        shares(archive), os.fsencode(target), Wish(**options), password=password, may_write=False
    )
    outcome = rehearse(prepared, password=password).outcome
    skipped, failed = outcome.skipped + prepared.skipped, outcome.failed + prepared.failed
    assert outcome.restored + skipped + failed == prepared.total
    return outcome.restored, skipped, failed


def tree(root: Path) -> dict[bytes, tuple]:
    """Everything below `root`, by a walk of its own: kind and mode, time, content."""
    top = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as opened:
                    content = opened.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def expected(members: Iterable[forge.Forged]) -> dict[bytes, tuple]:
    return {
        member.name.rstrip(b"/"): (
            member.mode,
            member.mtime_ns,
            None if member.name.endswith(b"/") else member.data,
        )
        for member in members
    }


def as_nobody(work: Callable[[], None]) -> None:
    """Run `work` in a process without any rights; raise what it raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


KINDS = [
    forge.folder(b"s", 0o755, mtime_ns=forge.NOON - 7),
    forge.folder(b"s/empty", 0o711),
    forge.file(b"s/zero"),
    forge.file(b"s/big", BIG, 0o600, deflate=True),
    forge.file(b"s/big-stored", BIG),
    forge.file(b"s/text", b"hello " * 500, 0o644, deflate=True, mtime_ns=-(10**18) + 1),
    forge.file(b"s/later", b"x", mtime_ns=9_000_000_000 * SECOND + 42),
    forge.file(b"s/sticky", b"x", 0o1755),
    forge.folder(b"s/readonly", 0o555),
    forge.file(b"s/readonly/child", b"kept", 0o444),
    forge.folder(b"s/readonly/sub", 0o500),
    forge.file(b"s/readonly/sub/child", b"kept too"),
    forge.link(b"s/relative", b"zero"),
    forge.link(b"s/absolute", b"/etc/passwd"),
    forge.link(b"s/dangling", b"no/where", mtime_ns=5 * SECOND + 3),
    forge.link(b"s/loop", b"loop"),
    forge.link(b"s/to-folder", b"empty"),
    forge.link(b"s/raw", b"\xff\xfe"),
]
