"""A history of a job in memory, built from the manifests of its runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backing_up import Made, Outcome, back_up

from pybak.backup.base import ArchiveFacts, Digest, Lineage, State, Stored, is_racy
from pybak.backup.gone import WITHOUT_DISK
from pybak.backup.run import BackupRun
from pybak.entries import FILE, FOLDER
from pybak.formats.manifest import Reference
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Manifest, read_whole_manifest
from pybak.report import BackupReport


@dataclass
class Remembered:
    """A snapshot; `members` are the lines of the manifests, each with the start of its run."""

    run_id: str
    seq: int
    mode: str
    started_at: datetime
    full_run: str
    full_started_at: datetime
    members: dict[bytes, tuple[FullFact | Reference, int, ArchiveFacts]]
    runs_since_full: int = 0
    gone: set[bytes] = field(default_factory=set)
    errors: list[tuple[str, str]] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)

    def states(self) -> Iterator[tuple[bytes, State]]:
        for ident, (name, (fact, recorded, _)) in enumerate(self.members.items()):
            yield (
                name,
                (
                    fact.type, fact.size, fact.mtime_ns, fact.ctime_ns, fact.inode, fact.dev,
                    fact.mode, fact.uid, fact.gid, fact.changed,
                    is_racy(fact.mtime_ns, fact.ctime_ns, recorded), ident,
                ),
            )  # fmt: skip

    def digests(self, idents: Sequence[int]) -> Mapping[int, Digest]:
        facts = [fact for fact, _, _ in self.members.values()]
        return {number: (facts[number].sha256, _pairs(facts[number])) for number in idents}

    def contents(self, sizes: Collection[int]) -> Iterator[Stored]:
        for name, (fact, _, archive) in sorted(self.members.items()):
            if fact.type == FILE and fact.size in sizes and not fact.changed:
                digest = (fact.sha256, _pairs(fact))
                yield Stored(fact.size, digest, self.runs[archive.name], self._member(name)[1])

    def other_versions(self, older: Remembered) -> Iterator[tuple[bytes, State | None]]:
        before = dict(older.states())
        for name in self.members.keys() | older.members.keys():
            if self.members.get(name) is not older.members.get(name):
                yield name, before.get(name)

    def references(self, names: Iterable[bytes]) -> Iterator[Reference]:
        for name in names:
            if name in self.members:
                fact, _, archive = self.members[name]
                yield Reference(
                    path=os.fsdecode(name), type=fact.type, size=fact.size, mtime_ns=fact.mtime_ns,
                    ctime_ns=fact.ctime_ns, inode=fact.inode, mode=fact.mode, uid=fact.uid,
                    gid=fact.gid, run=self.runs[archive.name], sha256=fact.sha256,
                    member=fact.member if isinstance(fact, Reference) else None,
                    parts=_pairs(fact), changed=fact.changed, dev=fact.dev,
                )  # fmt: skip

    def archive_names(self) -> Mapping[str, str]:
        return {run: os.path.basename(name) for name, run in self.runs.items()}

    def without_disk(self) -> Iterator[str]:
        return iter(self.emptied)

    def _member(self, name: bytes) -> tuple[ArchiveFacts, bytes]:
        """Give where the content of a member is."""
        fact, _, archive = self.members[name]
        member = fact.member if isinstance(fact, Reference) else None
        return archive, name if member is None else os.fsencode(member)

    def gone_since_full(self) -> Iterable[bytes]:
        return iter(self.gone)

    def archives(self) -> Sequence[ArchiveFacts]:
        return list(dict.fromkeys(facts for _, _, facts in self.members.values()))

    def failures(self) -> Iterable[tuple[str, str]]:
        return iter(self.errors)

    def lineage(self, replaced: Iterable[bytes]) -> Lineage | None:
        return None


class Memory:
    """The history of one job: `remember` is what a catalog does when a run ends."""

    def __init__(self) -> None:
        self.snapshots: list[Remembered] = []
        self.runs = 0
        self.outcomes: dict[str, Outcome] = {}
        self.runs_of_archives: dict[str, str] = {}
        self.facts: dict[str, ArchiveFacts] = {}

    def base(self, mode: str) -> Remembered | None:
        full = [number for number, one in enumerate(self.snapshots) if one.mode == "full"]
        if not full:
            return None
        base = self.snapshots[-1 if mode == "incremental" else full[-1]]
        base.runs_since_full = len(self.snapshots) - full[-1] - 1
        return base

    def begin(self, run: BackupRun) -> None:
        self.runs += 1
        run.seq = self.runs

    def keep(self, run: BackupRun, report: BackupReport, made: Made) -> None:
        """Do more with a finished run; nothing here."""

    def back_up(self, *sources: Path | str | bytes, **more: object) -> Outcome:
        """Run a backup of the job; the manifest is what is remembered of it."""
        manifests: list[Manifest[FullFact]] = []
        starts: list[datetime] = []

        def begin(run: BackupRun) -> None:
            self.begin(run)
            starts.append(run.started_at)

        def after(run: BackupRun, report: BackupReport, made: Made) -> None:
            manifests.append(read_whole_manifest(made.assembly.manifest.read_bytes()))
            self.keep(run, report, made)

        more.setdefault("mode", "incremental")
        # Files that were made just now are not racy.
        more.setdefault("now", datetime.now(UTC) + timedelta(seconds=5))
        more.setdefault("history", self)
        done = back_up(*sources, begin=begin, after=after, **more)  # type: ignore[arg-type]
        if manifests:
            files = [(os.fspath(file), file.stat().st_size) for file in done.files]
            self.outcomes[str(done.path)] = done
            facts = ArchiveFacts(str(done.path), tuple(files), done.report.encrypted)
            self.remember(manifests[0], starts[0], facts)
        return done

    def remember(
        self, manifest: Manifest[FullFact], started_at: datetime, archive: ArchiveFacts
    ) -> None:
        """Write the snapshot of a run down, by the rules that a catalog has for it."""
        head = manifest.head
        records = {line.name: line for line in manifest.lines if line.path is not None}
        gone = {os.fsencode(name) for name in manifest.gone}
        before = next((one for one in self.snapshots if one.run_id == head.base_run), None)
        assert (before is None) == (head.mode == "full")
        kept = before.members if before is not None else {}
        started_ns = int(started_at.timestamp() * 1e9)
        members = {
            name: known for name, known in kept.items() if name not in gone and name not in records
        }
        members |= {name: (fact, started_ns, archive) for name, fact in records.items()}
        by_run = {run: name for name, run in self.runs_of_archives.items()}
        for one in manifest.references:
            facts = self.facts[by_run[one.run]]
            members[os.fsencode(one.path)] = (one, started_ns, facts)
        self.runs_of_archives[archive.name] = head.run_id
        self.facts[archive.name] = archive
        full = head.run_id if before is None else before.full_run
        assert head.full_run == (None if before is None else full)
        self.snapshots.append(
            Remembered(
                head.run_id, head.seq or 0, head.mode, started_at, full,
                started_at if before is None else before.full_started_at, members,
                0, gone, [(path, code) for path, code, _ in manifest.errors],
                [path for path, _, message in manifest.errors if message == WITHOUT_DISK],
                self.runs_of_archives,
            )
        )  # fmt: skip

    def contents(self) -> dict[str, bytes | None]:
        """Give the newest snapshot's files with content and folders (None), from its archives."""
        found: dict[str, bytes | None] = {}
        newest = self.snapshots[-1]
        needed = {archive.name for _, _, archive in newest.members.values()}
        read = {name: self.outcomes[name].contents for name in needed}
        for name, (fact, _, archive) in newest.members.items():
            text = os.fsdecode(name)
            if fact.type == FOLDER:
                found[text] = None
                assert text + "/" in read[archive.name]
            else:
                found[text] = read[archive.name][os.fsdecode(newest._member(name)[1])]
        return found

    @property
    def names(self) -> set[bytes]:
        """The members of the newest snapshot."""
        return set(self.snapshots[-1].members)


def _pairs(fact: FullFact | Reference) -> list[tuple[int, str]]:
    """Give size and digest of each part."""
    if isinstance(fact, Reference):
        return fact.parts
    return [(part.size, part.sha256) for part in fact.parts]


def on_disk(*tops: Path) -> dict[str, bytes | None]:
    """Describe folders as `Memory.contents` does: a link's content is its target."""
    found: dict[str, bytes | None] = {}
    for top in tops:
        found[top.name] = None
        for here, folders, files in os.walk(top):
            for name in folders + files:
                path = Path(here, name)
                key = os.path.join(top.name, os.path.relpath(path, top))
                if path.is_symlink():
                    found[key] = os.fsencode(os.readlink(path))
                else:
                    found[key] = None if path.is_dir() else path.read_bytes()
    return found


def counts(report: BackupReport) -> tuple[int, ...]:
    """Give new, changed, unchanged, failed; they add up to the total."""
    found = report.files.to_json()
    kinds = ("new", "changed", "unchanged", "failed")
    assert found["total"] == sum(found[kind] for kind in kinds)
    return tuple(found[kind] for kind in kinds)
