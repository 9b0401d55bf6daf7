"""Backups by the engine alone, without Prefect, and the judges of what they make."""

from __future__ import annotations

import bz2
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
import pyzipper
import zstandard
from commands import tool

from pybak.backup import assemble_tar, pack_tar, pack_zip, packing, read_source, tar_content
from pybak.backup import parts as parts_module
from pybak.backup import plan as plan_module
from pybak.backup.assemble import Assembly
from pybak.backup.base import History
from pybak.backup.compress import compress_batches
from pybak.backup.hands import Hand
from pybak.backup.plan import BackupPlan
from pybak.backup.record import collecting
from pybak.backup.run import BackupRun
from pybak.catalog.collected import CollectedVersions
from pybak.clusters import DIRECT
from pybak.formats import manifest, streams
from pybak.formats.deflate import deflater
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Manifest, read_whole_manifest
from pybak.options import BackupOptions
from pybak.report import BackupReport
from pybak.volumes.write import write_volumes

MANIFEST = manifest.MEMBER_NAME.decode()
UTF8 = os.environ | {"LC_ALL": "C.UTF-8"}
PASSWORD = b"correct horse"
TARS = ("tar", "tar.gz", "tar.bz2", "tar.zst")
FORMATS: dict[str, dict[str, Any]] = {
    "zip": {}, "aes": {"password": PASSWORD}, **{name: {"format": name} for name in TARS},
}  # fmt: skip
"""What `back_up` takes for each kind of archive, by a short name; `aes` is an encrypted zip."""


@dataclass(frozen=True)
class Outcome:
    """A finished backup. `path` is the archive's, without the endings of volumes and wrappers."""

    report: BackupReport
    path: Path
    plan: BackupPlan
    password: bytes | None = field(default=None, repr=False)

    @property
    def errors(self) -> dict[str, str]:
        """The failed paths with their codes."""
        return {problem.path: problem.code for problem in self.report.errors}

    @property
    def skipped(self) -> dict[str, str]:
        return {problem.path: problem.code for problem in self.report.skipped}

    @property
    def files(self) -> list[Path]:
        """The archive's files: itself, or its volumes in order."""
        return [
            Path(os.fsdecode(unquote_to_bytes(urlsplit(volume.uri).path)))
            for volume in self.report.volumes
        ]

    @cached_property
    def joined(self) -> Path:
        """One plain file, as people get it: wrappers taken off, volumes joined by `cat`."""
        if self.files == [self.path]:
            return self.path
        whole = self.path.with_name(f"joined.{self.path.name}")
        with whole.open("wb") as out:
            for file in self.files:
                if file.name.endswith(".zip") and self.is_wrapped:
                    inner, data = unwrapped(file, self.password or b"")
                    assert inner + ".zip" == file.name
                    out.write(data)
                else:
                    out.write(file.read_bytes())
        return whole

    @property
    def is_wrapped(self) -> bool:
        return (
            self.password is not None
            and self.files[0].name.removesuffix(".zip") != (self.files[0].name)
            and self.files != [self.path]
        )

    @property
    def tar(self) -> bytes:
        """The tar stream, by the decompressor of a library."""
        return unpacked(self.joined.read_bytes(), str(self.report.format))

    @property
    def manifest(self) -> Manifest[FullFact]:
        """The manifest as the engine reads it."""
        return read_whole_manifest(self.read(MANIFEST))

    @property
    def records(self) -> dict[str, FullFact]:
        """The manifest's lines by member name; fails if a name is there twice."""
        found = [line for line in self.manifest.lines if line.path is not None]
        records = {str(record.path): record for record in found}
        assert len(records) == len(found)
        return records

    @property
    def contents(self) -> dict[str, bytes]:
        """The archive's members as Python reads them, without the manifest.

        A folder's name ends with a slash; a link's content is its target, a hard link's that of
        the file. Fails if a name is there twice.
        """
        if self.report.format == "zip":
            with self.opened_zip() as archive:
                names = archive.namelist()
                found = [(name, archive.read(name)) for name in names[:-1]]
            last = names[-1]
        else:
            with self.opened_tar() as archive:
                *members, end = archive.getmembers()
                found = [_content(archive, member) for member in members]
            last = end.name
        assert last == MANIFEST
        assert len(dict(found)) == len(found), "a member is there twice"
        return dict(found)

    def read(self, name: str) -> bytes:
        """Read one member."""
        if self.report.format == "zip":
            with self.opened_zip() as archive:
                return bytes(archive.read(name))
        with self.opened_tar() as archive:
            content = archive.extractfile(name)
            assert content is not None
            return content.read()

    @contextmanager
    def opened_zip(self) -> Iterator[Any]:
        if self.password is None or self.is_wrapped:
            with zipfile.ZipFile(self.joined) as archive:
                yield archive
        else:
            with pyzipper.AESZipFile(self.joined) as archive:
                archive.setpassword(self.password)
                yield archive

    @contextmanager
    def opened_tar(self) -> Iterator[tarfile.TarFile]:
        with tarfile.open(
            fileobj=io.BytesIO(self.tar), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            yield archive


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, bytes]:
    if member.isdir():
        return member.name + "/", b""
    if member.issym():
        return member.name, os.fsencode(member.linkname)
    if member.isreg() or member.islnk():
        content = archive.extractfile(member)
        return member.name, b"" if content is None else content.read()
    return member.name, b""


def unpacked(data: bytes, archive_format: str) -> bytes:
    """Decompress a whole archive; of gzip only the first member, as simple readers do."""
    if archive_format == "tar.gz":
        inflate = zlib.decompressobj(31)
        plain = inflate.decompress(data) + inflate.flush()
        assert inflate.eof
        assert inflate.unused_data == b""
        return plain
    if archive_format == "tar.bz2":
        return bz2.decompress(data)
    if archive_format == "tar.zst":
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            data, read_across_frames=True
        )
        return reader.read()
    return data


def unwrapped(file: Path, password: bytes) -> tuple[str, bytes]:
    """Take a wrapper off by pyzipper; give the name and the bytes of what was inside."""
    with pyzipper.AESZipFile(file) as archive:
        archive.setpassword(password)
        (name,) = archive.namelist()
        (info,) = archive.infolist()
        assert info.flag_bits & 1, "is not encrypted"
        return name, archive.read(name)


def shrink(
    patch: pytest.MonkeyPatch, *, part: int, whole: int = 20_000, piece: int = 8_000
) -> None:
    """Have files of some kB go the ways of large ones, and retries come at once."""
    for module in (packing, pack_zip, pack_tar):
        patch.setattr(module, "WHOLE_LIMIT", whole)
    patch.setattr(pack_zip, "deflater", lambda level: replace(deflater(level), piece_bytes=piece))
    patch.setattr(pack_zip, "MOST_GROWN", 2 * part)
    for module in (pack_tar, assemble_tar):
        patch.setattr(
            module,
            "codec",
            lambda *how: replace(streams.codec(*how), piece_bytes=piece),
        )
    for module in (tar_content, pack_tar):
        patch.setattr(module, "READ_BYTES", piece)
    cut_files_at(patch, part)
    patch.setattr(read_source, "_RETRY_SECONDS", (0.0, 0.0, 0.0))


def cut_files_at(patch: pytest.MonkeyPatch, size: int) -> None:
    """Cut files of more than `size` bytes into parts of that size."""
    for module in (parts_module, plan_module):
        patch.setattr(module, "PART_BYTES", size)


class Made(NamedTuple):
    """What `write_backup` takes of a run besides its report."""

    assembly: Assembly
    collected: CollectedVersions | None


def back_up(
    *sources: Path | str | bytes,
    to: Path,
    job: str | None = None,
    threads: int = 2,
    before_reading: Callable[[BackupRun], object] = lambda _run: None,
    compress: Callable[..., Any] = compress_batches,
    password: bytes | None = None,
    history: History | None = None,
    begin: Callable[[BackupRun], History | None] = lambda _run: None,
    after: Callable[[BackupRun, BackupReport, Made], object] = lambda *_what: None,
    now: datetime | None = None,
    **options: Any,
) -> Outcome:
    """Do what the backup flow does, with threads as workers.

    `before_reading` is called when the sources are listed and planned, and nothing is read yet;
    `begin` comes before anything else and may give the history; `after` gets the report and what
    `write_backup` takes, if there is an archive.
    """
    more = {"read": options.pop("read")} if "read" in options else {}
    options.setdefault("workers", threads)
    with BackupRun(
        [os.fsdecode(source) for source in sources],
        output=None,
        to=str(to),
        job=job,
        options=BackupOptions(**options),
        password=password,
        now=now,
    ) as run:
        run.choose_base(begin(run) or history)
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        before_reading(run)
        if run.is_unchanged:
            return Outcome(run.unchanged_report(kept), Path(), plan, password)
        with collecting(run, plan, least=0) as collected:
            add = collected.add if collected is not None else None
            with run.assembling(add) as assembling:
                with ThreadPoolExecutor(threads) as pool:
                    hands = [
                        pool.submit(
                            compress, run.staging, hand.batches(), password=password, **more
                        )
                        for hand in plan.hands
                    ]
                    for hand in hands:
                        hand.result()
                ends = run.header(), run.owner_names(), run.conclude(kept)
                assembly = assembling.finish(*ends)
        count = run.cut(assembly)
        if count:
            call = run.volume_call(Hand(0, count, 1), DIRECT)
            numbers = range(call.pop("start"), call.pop("stop"), call.pop("step"))
            write_volumes(call.pop("staging"), numbers, password=password, **call)
        stored = run.publish(assembly, count)
        report = run.report(kept=kept, assembly=assembly, stored=stored)
        after(run, report, Made(assembly, collected))
    assert sum(volume.size for volume in report.volumes) == report.bytes_stored
    return Outcome(report, stored.path, plan, password)


def snapshot(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Describe all below `folder`, by `lstat` and `open` alone.

    A path maps to kind, permission bits, whole seconds of the modification time (None for links)
    and SHA-256 or target.
    """
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.fsencode(folder)
    for here, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(here, name)
            info = os.lstat(path)
            mode, seconds = stat.S_IMODE(info.st_mode), info.st_mtime_ns // 10**9
            key = os.path.relpath(path, top)
            if stat.S_ISLNK(info.st_mode):
                found[key] = ("link", None, None, os.readlink(path))
            elif stat.S_ISDIR(info.st_mode):
                found[key] = ("folder", mode, seconds, None)
            elif not stat.S_ISREG(info.st_mode):
                found[key] = ("other", mode, seconds, stat.S_IFMT(info.st_mode))
            else:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[key] = ("file", mode, seconds, digest)
    return found


def unpack(archive: Path, target: Path, program: str = "bsdtar", *more: str) -> Path:
    """Unpack with a stock program, the manifest left out; give `target`. `more` are options."""
    target.mkdir()
    command = {
        "bsdtar": ["-xpf", archive, "-C", target, "--exclude", ".pybak", *more],
        "tar": ["-xpf", archive, "-C", target, "--exclude=.pybak", "--numeric-owner", *more],
        "unzip": ["-qq", "-K", "-o", archive, "-x", ".pybak/*", "-d", target, *more],
        "7zz": ["x", "-y", "-bso0", "-snld", "-xr!.pybak", f"-o{target}", archive, *more],
    }[program]
    run_tool(program, *command)
    return target


def run_tool(program: str, *words: str | Path, allow: Sequence[int] = (0,)) -> str:
    """Run a stock program in a UTF-8 locale; give what it prints."""
    done = subprocess.run(
        [tool(program), *words],
        env=UTF8,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    said = f"{program}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    assert done.returncode in allow, ascii(said)
    return done.stdout + done.stderr


def judge(archive: Path, programs: Sequence[str] | None = None) -> None:
    """Have stock programs check a plain archive; fails if one finds anything wrong."""
    if ".tar" in archive.name:
        _judge_tar(archive, programs or ("tar", "bsdtar", "decompressor"))
        return
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        members = len(file.infolist())
    for program in programs if programs is not None else ("unzip", "7zz", "bsdtar"):
        if program == "unzip":
            run_tool(program, "-tqq", archive)
        elif program == "7zz":
            said = run_tool(program, "t", archive)
            assert "Everything is Ok" in said
            assert "Warning" not in said
        else:
            assert len(run_tool(program, "-tf", archive).splitlines()) >= members


_CHECKS = {"gz": "gzip", "bz2": "bzip2", "zst": "zstd"}


def _judge_tar(archive: Path, programs: Sequence[str]) -> None:
    for program in programs:
        if program == "decompressor":
            if checker := _CHECKS.get(archive.name.rpartition(".")[2]):
                run_tool(checker, "-t", "-q", archive)
            continue
        # All members are listed, to the end, without a word of warning.
        assert run_tool(program, "-tf", archive).endswith(f"{MANIFEST}\n")
        assert run_tool(program, "-xOf", archive, MANIFEST) != ""
    with tarfile.open(fileobj=io.BytesIO(unpacked(archive.read_bytes(), _format(archive)))) as file:
        assert file.getnames()[-1] == MANIFEST


def _format(archive: Path) -> str:
    return archive.name[archive.name.rindex("tar") :]


def judge_outcome(done: Outcome, programs: Sequence[str] | None = None) -> None:
    """Have stock programs check an archive, be it encrypted, wrapped or cut into volumes."""
    if done.report.format == "zip" and done.password is not None and not done.is_wrapped:
        password = os.fsdecode(done.password)
        assert "Everything is Ok" in run_tool("7zz", "t", f"-p{password}", done.joined)
        with done.opened_zip() as archive:
            assert archive.testzip() is None
            links = any(stat.S_ISLNK(info.external_attr >> 16) for info in archive.infolist())
        # bsdtar can't read links that are encrypted.
        run_tool(
            "bsdtar", "--passphrase", password, "-xOf", done.joined, allow=(1,) if links else (0,)
        )
        return
    judge(done.joined, programs)


def noise(size: int, seed: int = 0) -> bytes:
    """Give bytes that don't compress, the same for the same seed."""
    out = io.BytesIO()
    block = hashlib.sha256(str(seed).encode()).digest()
    while out.tell() < size:
        block = hashlib.sha512(block).digest()
        out.write(block)
    return out.getvalue()[:size]


def prose(size: int, seed: int = 0) -> bytes:
    """Give bytes that compress as text does, the same for the same seed."""
    import random

    pick = random.Random(seed)
    words = ["".join(pick.choices("etaoinshrdlu", k=pick.randint(2, 9))) for _ in range(400)]
    text = " ".join(pick.choices(words, k=size // 5 + 10)).encode()
    return text[:size].ljust(size, b".")
