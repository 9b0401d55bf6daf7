"""`pybak versions`: what a file was like in all backups, and how each version is got back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybak.cli import rows
from pybak.cli.building import Parsed
from pybak.cli.history import (
    history_command,
    known_snapshots,
    local_time,
    opened_catalog,
    run_json,
    short_ids,
)
from pybak.cli.lines import Lines, json_close, json_open, table
from pybak.cli.settings import Setting, shown, text, texts
from pybak.display import printable, shell_word
from pybak.entries import FILE, HARD_LINK, LINK
from pybak.errors import ExitCode, NotFoundError, PlanError
from pybak.patterns import exact_pattern
from pybak.report import RESTORE_COMMAND

if TYPE_CHECKING:
    import click

    from pybak.catalog.facts import ArchiveFacts, Snapshot, Version
    from pybak.catalog.history import History
    from pybak.catalog.lookup import Named

_MOST_MEMBERS: Final = 20
_NAMED: Final = 5
_DIGEST_SHOWN: Final = 12
_HEADING: Final = (
    "#",
    "From",
    "Until",
    "Run",
    "Change",
    "Mode",
    "Size",
    "Modified",
    "SHA-256",
    "Archive",
)
_RIGHT: Final = frozenset({"#", "Size"})
_TARGET: Final = "restored"


class Kept(NamedTuple):
    """A version that can be got back: in the snapshots from `first` to `last`.

    `change` is what differs from the version before: new, content, metadata or type; none where
    another archive holds the same once more.
    """

    version: Version
    first: Snapshot
    last: Snapshot
    archive: ArchiveFacts
    change: str


class Member(NamedTuple):
    """A member and its versions, the oldest first; `gone` is the first snapshot without it."""

    path: bytes
    job: str
    versions: list[Kept]
    gone: Snapshot | None


def versions_command() -> click.Command:
    """Make `pybak versions`."""
    return history_command(
        "versions",
        _versions,
        about="Show all versions of a file that backups hold, and how to get each one back.",
        usage="[OPTIONS] FILE",
        argument=Setting(
            "words", "A file's path on disk, its name in backups, or the end of that.",
            metavar="FILE", many=True, in_environment=False,
        ),
    )  # fmt: skip


def _versions(parsed: Parsed) -> int:
    words = texts(parsed.given.get("words"))
    if len(words) != 1:
        what = "no FILE" if not words else f"{len(words)} files named"
        raise PlanError(f"{what}; name one file")
    job = text(parsed.given.get("job"))
    with opened_catalog() as (database, history):
        from pybak.catalog.lookup import find_members

        snapshots = known_snapshots(history, job)
        with database.reading() as connection:
            found = find_members(connection, os.fsencode(words[0]), folder=os.getcwdb())
        named = [one for one in found if job in (None, one.job)]
        _check(words[0], named)
        members = [_member(history, one, snapshots) for one in named]
    members = [member for member in members if member.versions]
    _check(words[0], members)
    out = Lines(parsed.view)
    if parsed.view.json:
        out.add(json_open({"file": words[0]}, "members"))
        for number, member in enumerate(members):
            out.add(("," if number else "") + json.dumps(_json(member)))
        out.add(json_close({"status": "success", "errors": []}))
    else:
        ids = short_ids(snapshots)
        for number, member in enumerate(members):
            for line in (*([""] if number else []), *_text(member, ids)):
                out.add(line)
    out.flush()
    return ExitCode.DONE


def _check(name: str, found: Sequence[Named | Member]) -> None:
    """Raise NotFoundError where nothing is called so, PlanError where too much is."""
    if not found:
        raise NotFoundError(
            f"{shown(name)}: in no backup; `pybak find` takes patterns, such as '*.txt'"
        )
    if len(found) > _MOST_MEMBERS:
        some = ", ".join(printable(one.path) for one in found[:_NAMED])
        raise PlanError(
            f"{shown(name)}: {len(found)} members end like this; write more of the path, as in "
            f"{some}"
        )


def _member(history: History, named: Named, snapshots: Sequence[Snapshot]) -> Member:
    own = [one for one in snapshots if one.job == named.job]
    own.sort(key=lambda one: one.seq)
    rows_of = [version for _, version in history.versions_of(named.path, named.job)]
    archives = {one.id: one for one in history.archives_by_id(row.archive_id for row in rows_of)}
    kept: list[Kept] = []
    for row in rows_of:
        holders = [one for one in own if _is_in(row, one)]
        archive = archives.get(row.archive_id)
        if not holders or archive is None:
            continue
        before = kept[-1] if kept else None
        if before is not None and _is_same_record(before.version, row):
            kept[-1] = before._replace(last=holders[-1])
            continue
        change = _change(before.version if before else None, row)
        kept.append(Kept(row, holders[0], holders[-1], archive, change))
    return Member(named.path, named.job, kept, _gone(own, rows_of, kept))


def _is_in(row: Version, snapshot: Snapshot) -> bool:
    return row.first_seq <= snapshot.seq and (row.gone_seq is None or row.gone_seq > snapshot.seq)


def _is_same_record(one: Version, other: Version) -> bool:
    """Whether two rows tell of one record: snapshots between lack it or have another version.

    Rows of two records may name one archive, where content that is stored is referred to.
    """
    same = one._replace(first_seq=other.first_seq, gone_seq=other.gone_seq, ctime_ns=other.ctime_ns)
    return same == other


def _gone(
    own: Sequence[Snapshot], found: Sequence[Version], kept: Sequence[Kept]
) -> Snapshot | None:
    """Give the first snapshot without the member, if the newest has none."""
    if not kept or any(_is_in(row, own[-1]) for row in found):
        return None
    return next((one for one in own if one.seq > kept[-1].last.seq), None)


def _change(before: Version | None, after: Version) -> str:
    if before is None:
        return "new"
    if before.kind != after.kind:
        return "type"
    if _is_as_before(before, after):
        return "none"
    if after.kind == FILE and before.size == after.size:
        if before.sha256 and before.sha256 == after.sha256:
            return "metadata"
        if before.parts and before.parts == after.parts:
            return "metadata"
    elif after.kind in (LINK, HARD_LINK):
        # What they lead to is not in the catalog; when that changed, so did the time.
        if (before.size, before.mtime_ns) == (after.size, after.mtime_ns):
            return "metadata"
    elif after.kind != FILE:
        return "metadata"
    return "content"


def _is_as_before(one: Version, other: Version) -> bool:
    """Whether nothing differs. The inode's time tells of attributes, which no row has."""
    if one.kind == FILE and not (one.sha256 or one.parts):
        return False
    there = one._replace(archive_id=other.archive_id, member=other.member, changed=other.changed)
    return _is_same_record(there, other) and one.ctime_ns == other.ctime_ns


def _command(member: Member, kept: Kept) -> str:
    """Give the line that restores this version."""
    pattern = shell_word(exact_pattern(member.path))
    more = " -p" if kept.archive.encrypted else ""
    return f"{RESTORE_COMMAND} {kept.last.run_id} --to {_TARGET} --include {pattern}{more}"


def _text(member: Member, ids: Mapping[str, str]) -> Iterator[str]:
    yield f"{printable(member.path)}, job {printable(member.job)}"
    yield from table(
        _HEADING,
        [
            (
                str(number), local_time(one.first.started_at), local_time(one.last.started_at),
                ids[one.last.run_id], one.change, rows.mode_of(one.version.kind, one.version.mode),
                rows.size_of(one.version.kind, one.version.size),
                rows.local(one.version.mtime_ns).strip(),
                (one.version.sha256 or rows.UNKNOWN)[:_DIGEST_SHOWN], printable(one.archive.name),
            )
            for number, one in enumerate(member.versions, 1)
        ],
        _RIGHT,
    )  # fmt: skip
    if member.gone is not None:
        gone = member.gone
        yield f"gone since {local_time(gone.started_at)}, run {ids[gone.run_id]}"
    yield "To get one back:"
    for number, one in enumerate(member.versions, 1):
        yield f"  {number}  {_command(member, one)}"


def _json(member: Member) -> dict[str, Any]:
    return {
        "path": os.fsdecode(member.path),
        "job": member.job,
        "versions": [_version_json(member, one) for one in member.versions],
        "gone": run_json(member.gone) if member.gone else None,
    }


def _version_json(member: Member, one: Kept) -> dict[str, Any]:
    version = one.version
    return {
        "from": run_json(one.first),
        "until": run_json(one.last),
        "change": one.change,
        "type": rows.type_name(version.kind),
        "size": version.size,
        "mtime": rows.utc(version.mtime_ns),
        "mode": f"{version.mode:04o}",
        "uid": version.uid,
        "gid": version.gid,
        "sha256": version.sha256,
        "parts": [{"size": size, "sha256": digest} for size, digest in version.parts],
        "archive": one.archive.name,
        "restore": _command(member, one),
    }
