"""What a run backs up, and under which names: sources become `Root`s.

Member names start with the source's own name; sources of the same name are told apart by as
much of their path as it takes. A source that is a link is followed and keeps the link's name.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from pybak.entries import Root
from pybak.errors import NotFoundError, PlanError
from pybak.problems import SOURCE_MISSING, UNREADABLE, Problem

STANDARD_INPUT: Final = "-"
_REFUSED_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_MISSING: Final = {
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "its path is too long for this system",
}


class Sources(msgspec.Struct, frozen=True):
    """The roots to walk, in the order given, and the sources that could not be found.

    `missing` are these as roots: they have names too, so that the others are called the same
    whether they are there or not. No two roots have the same member prefix. Where the prefix of one
    lies below that of another, it is the name that its files would have there too.
    """

    roots: tuple[Root, ...]
    problems: tuple[Problem, ...]
    missing: tuple[Root, ...] = ()

    def job(self, given: str | None) -> str:
        """Give the name of the job: as given, or the paths of all sources, there or not."""
        if given:
            return given
        return ", ".join(sorted(os.fsdecode(root.source) for root in (*self.roots, *self.missing)))


class _Found(msgspec.Struct, frozen=True):
    """`spelled` is the absolute path as it was named, `source` the one to read."""

    spelled: bytes
    source: bytes
    key: tuple[object, ...]


def resolve_sources(
    sources: Sequence[str],
    *,
    files_from: Sequence[str] = (),
    cwd: bytes | None = None,
    stdin: BinaryIO | None = None,
) -> Sources:
    """Find every source and give it its name in the archive.

    `files_from` names files that list further sources (`-` is `stdin`, standard input if not
    given). Relative paths start at `cwd`, the current folder if not given. The same folder or
    file given twice, by whatever spelling or link, is kept once, under its first name.

    Some sources missing make problems; all missing raise NotFoundError. Raises PlanError where
    there is no source at all, one is empty or neither file nor folder, or a list can't be read.
    """
    names = [*sources]
    for listing in files_from:
        names += _listed(listing, stdin)
    if not names:
        raise PlanError("there is no source; name a folder or a file to back up")
    start = _start(cwd)
    found: dict[tuple[object, ...], _Found] = {}
    missing: list[_Found] = []
    problems: dict[str, Problem] = {}
    for name in names:
        try:
            one = _find(name, start)
        except OSError as error:
            problem = _problem(name, start, error)
            if problem.path not in problems:
                problems[problem.path] = problem
                missing.append(_absent(name, start))
        else:
            found.setdefault(one.key, one)
    if not found:
        texts = "; ".join(f"{p.path}: {p.message}" for p in problems.values())
        raise NotFoundError(f"no source can be read; check the paths: {texts}")
    roots = _name([*found.values(), *missing])
    return Sources(roots[: len(found)], tuple(problems.values()), roots[len(found) :])


def _listed(name: str, stdin: BinaryIO | None) -> Iterator[str]:
    """Yield the sources that a list file names, byte by byte as they stand there."""
    try:
        if name == STANDARD_INPUT:
            data = (stdin or _standard_input()).read()
        else:
            data = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{name}: can't read this list of sources ({why}); check its path"
        raise PlanError(message) from error
    if b"\0" not in data:
        for line in data.split(b"\n"):
            if line.strip():
                yield os.fsdecode(line)
        return
    for number, item in enumerate(data.removesuffix(b"\0").split(b"\0"), 1):
        if not item:
            raise PlanError(f"{name}: name {number} of this list is empty; take it out")
        yield os.fsdecode(item)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer


def _start(cwd: bytes | None) -> bytes:
    try:
        return os.getcwdb() if cwd is None else os.path.abspath(cwd)
    except OSError as error:
        raise PlanError("the current folder is gone; change to another one") from error


def _find(name: str, start: bytes) -> _Found:
    """Look at one source. Raises OSError where it is not there, PlanError where it can't be."""
    try:
        path = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise PlanError(f"the source {name!r} is no path of this system") from error
    if not path or b"\0" in path:
        raise PlanError(f"the source {name!r} is no path: it is empty or holds a NUL character")
    joined = os.path.join(start, path)
    info = os.stat(joined)
    if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
        kind = _REFUSED_KINDS.get(stat.S_IFMT(info.st_mode), "neither file nor folder")
        raise PlanError(f"the source {name} is {kind}; name a folder or a file")
    real = os.path.realpath(joined)
    spelled, source = _spelled_and_source(joined, real)
    if stat.S_ISDIR(info.st_mode):
        # Also tells that two spellings are one on a file system that ignores case.
        return _Found(spelled, source, (info.st_dev, info.st_ino))
    return _Found(spelled, source, (real,))


def _absent(name: str, start: bytes) -> _Found:
    """Give a source that is not there the paths that it would have."""
    joined = os.path.join(start, os.fsencode(name))
    return _Found(*_spelled_and_source(joined, os.path.realpath(joined)), ())


def _spelled_and_source(joined: bytes, real: bytes) -> tuple[bytes, bytes]:
    """Give the path as it was named, normalised, and the one to read: of a link, its target."""
    spelled = _normal(joined)
    if b".." in joined.split(b"/") and os.path.realpath(spelled) != real:
        # `link/..` is the folder above what the link points to.
        spelled = real
    return spelled, real if os.path.islink(spelled) else spelled


def _normal(path: bytes) -> bytes:
    """Normalise an absolute path; POSIX lets two slashes at its start mean something else."""
    return b"/" + os.path.normpath(path).lstrip(b"/")


def _problem(name: str, start: bytes, error: OSError) -> Problem:
    path = _normal(os.path.join(start, os.fsencode(name)))
    code = SOURCE_MISSING
    if error.errno == errno.ENOENT and os.path.islink(path):
        message = "it is a link to something that does not exist"
    elif error.errno in (errno.EACCES, errno.EPERM):
        code = UNREADABLE
        message = "a folder above it can't be entered (permission denied)"
    else:
        message = _MISSING.get(error.errno or 0, f"it can't be looked at ({error.strerror})")
    return Problem(os.fsdecode(path), code, message)


def _name(found: list[_Found]) -> tuple[Root, ...]:
    """Give every source its member prefix."""
    if any(one.spelled == b"/" for one in found):
        # Below `/` every other source has a name already; that name is its real path.
        reals = [os.path.realpath(one.source) for one in found]
        return tuple(Root(real, real[1:]) for real in reals)
    parts = [one.spelled[1:].split(b"/") for one in found]
    depths = [1] * len(found)
    while True:
        members = [b"/".join(p[-d:]) for p, d in zip(parts, depths, strict=True)]
        longer = _collisions(members, [d < len(p) for p, d in zip(parts, depths, strict=True)])
        if not longer:
            break
        for index in longer:
            depths[index] += 1
    return tuple(Root(one.source, member) for one, member in zip(found, members, strict=True))


def _collisions(members: list[bytes], can_grow: list[bool]) -> set[int]:
    """Tell which prefixes must take one more part of their path.

    Equal ones must; of two where one lies below the other, the upper one must, or else the
    lower one. Two that show their whole path may lie so: then one source lies in the other.
    """
    counts = Counter(members)
    where = {member: index for index, member in enumerate(members)}
    longer = {i for i, m in enumerate(members) if counts[m] > 1 and can_grow[i]}
    if longer:
        return longer
    for index, member in enumerate(members):
        end = member.find(b"/")
        while end > 0:
            above = where.get(member[:end])
            if above is not None:
                if can_grow[above]:
                    longer.add(above)
                elif can_grow[index]:
                    longer.add(index)
            end = member.find(b"/", end + 1)
    return longer
