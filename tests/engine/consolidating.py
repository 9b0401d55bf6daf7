"""A chain of runs to consolidate, what each must restore to, and judges of what is made of it."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backing_up import unpacked, unwrapped
from jobs import Job, Tree, seen

from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Manifest, read_whole_manifest
from pybak.options import VerifyOptions
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild.run import RebuildRun
from pybak.report import JobPrune
from pybak.verify.check import verify_batch
from pybak.verify.run import VerifyRun
from pybak.volumes.find import find_volumes

MANIFEST = ".pybak/manifest.jsonl.gz"


class Chain:
    """Runs of one job, with what each must restore to, by their numbers."""

    def __init__(
        self,
        place: Path,
        *,
        password: bytes | None = None,
        catalog_url: str | None = None,
        **options: Any,
    ) -> None:
        self.job = Job(place, catalog_url=catalog_url)
        self.source = self.job.source
        self.password = password
        self.options = options
        self.states: dict[int, Tree] = {}

    def write(self, files: dict[str, str | bytes]) -> None:
        """Write files into the source."""
        for name, content in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def run(self, mode: str = "incremental", **options: Any) -> None:
        """Back the source up, and remember what it is now."""
        made = self.job.run(mode, password=self.password, **(self.options | options))
        assert made.report.status == "success", made.report.errors
        self.states[len(self.states) + 1] = seen(self.source)

    def prune(self, **rules: Any) -> JobPrune:
        """Prune and consolidate."""
        (done,) = self.job.prune(password=self.password, consolidate=True, **rules).jobs
        return done

    def consolidated(self, **rules: Any) -> Path:
        """Do the same where there must come one archive of it; give that."""
        done = self.prune(**(rules or {"keep_last": 1}))
        assert done.status == "success", done.errors
        assert done.consolidated is not None
        assert done.consolidated.archive is not None
        assert done.consolidated.size == sum(path.stat().st_size for path in self.volumes)
        return Path(done.consolidated.archive)

    @property
    def volumes(self) -> list[Path]:
        """The files in the storage, but for those of checksums."""
        sums = (".sha256", ".md5")
        return [path for path in self.job.archives if path.suffix not in sums]

    def check(self) -> None:
        """See that every snapshot that is listed restores to what it was."""
        for snapshot in self.job.snapshots:
            report, folder = self.job.restore(snapshot.run_id, password=self.password)
            assert report.status == "success", report.errors
            assert seen(folder) == self.states[snapshot.seq], snapshot.seq

    def rebuild(self) -> None:
        """Lose the catalog, and make it anew from the storage."""
        for path in Path(self.job.home).glob("catalog.db*"):
            path.unlink()
        with RebuildRun([str(self.job.store)], RebuildOptions(), catalog_url=self.job.url) as run:
            steps = run.read(self.password)
            run.write(steps, run.describe(steps))

    def held(self) -> dict[str, tuple[object, ...]]:
        """Describe what the catalog says of each snapshot."""
        found: dict[str, tuple[object, ...]] = {}
        with self.job.history() as history:
            for snapshot in history.snapshots(self.job.name):
                members = {
                    one.path: (one.kind, one.size, one.mtime_ns, one.sha256, one.first_seq)
                    for one in history.versions(snapshot)
                }
                found[snapshot.run_id] = (
                    snapshot.status, snapshot.mode, snapshot.base_run, snapshot.seq, members,
                )  # fmt: skip
        return found


def four_runs(place: Path, **options: Any) -> Chain:
    """Make a full run and three that build on it."""
    chain = Chain(place, **options)
    source = chain.source
    chain.write({"a": "1", "b": "1" * 5000, "d/c": "1", "d/e": "1"})
    chain.run("full")
    os.symlink("a", source / "link")
    chain.write({"b": "2" * 5000, "n": "2", "caf\udce9": "2"})
    chain.run()
    (source / "d/c").unlink()
    chain.write({"d/x": "3"})
    (source / "empty").mkdir()
    chain.run()
    (source / "n").unlink()
    chain.write({"b": "4" * 9000})
    chain.run()
    return chain


def verified(path: Path, password: bytes | None = None) -> None:
    """Read an archive through, structure, checksums and digests."""
    with VerifyRun(VerifyOptions(workers=1)) as run:
        found = find_volumes(os.fsencode(path))
        plan = run.plan(found, 0, password)
        results = [verify_batch(batch, password=password) for batch in plan.batches]
        done = run.check(found, 0, plan, results)
    assert (done.status, done.message, done.damaged) == ("success", None, ())


def plain_bytes(files: Iterable[Path], password: bytes | None = None) -> bytes:
    """Give an archive as one run of bytes: wrappers taken off by pyzipper, volumes joined."""
    found = []
    for file in files:
        data = file.read_bytes()
        found.append(unwrapped(file, password)[1] if password is not None else data)
    return b"".join(found)


def raw(path: Path) -> dict[str, bytes]:
    """Give the packed bytes of each member of a ZIP archive, but of the manifest."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            if info.filename != MANIFEST:
                file.seek(info.header_offset + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                file.seek(name + extra, os.SEEK_CUR)
                found[info.filename] = file.read(info.compress_size)
    return found


class Tar:
    """A tar archive as Python reads it."""

    def __init__(self, data: bytes, archive_format: str) -> None:
        self.packed = data
        self.plain = unpacked(data, archive_format)
        with self._opened() as archive:
            self.members = {one.name: one for one in archive.getmembers()}
            assert len(self.members) == len(archive.getmembers())
            content = archive.extractfile(MANIFEST)
            assert content is not None
            self.manifest: Manifest[FullFact] = read_whole_manifest(content.read())

    def _opened(self) -> tarfile.TarFile:
        return tarfile.open(
            fileobj=io.BytesIO(self.plain), mode="r:", encoding="utf-8", errors="surrogateescape"
        )

    @property
    def names(self) -> list[str]:
        """The members' names as they come, without the manifest."""
        return list(self.members)[:-1]

    def read(self, name: str) -> bytes:
        """Read a member, a link's file through the link."""
        with self._opened() as archive:
            content = archive.extractfile(name)
            assert content is not None
            return content.read()

    def pieces(self, start: int) -> list[bytes]:
        """Give the packed pieces that the manifest tells of; the first begins at `start`."""
        found = []
        for line in self.manifest.lines:
            for stored, _, _ in line.pieces or ():
                found.append(self.packed[start : start + stored])
                start += stored
        return found

    def blocks(self) -> dict[str, bytes]:
        """Give all bytes of each member, headers and padding included."""
        places = []
        start = end = 0
        for line in self.manifest.lines:
            if line.pieces is not None:
                start, end = end, end + sum(plain for _, plain, _ in line.pieces)
            elif line.at is not None:
                places.append((start + line.at[0], str(line.path)))
        stops = [*(at for at, _ in places[1:]), end]
        return {name: self.plain[at:stop] for (at, name), stop in zip(places, stops, strict=True)}
