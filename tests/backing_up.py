"""Backups by the engine alone, without Prefect, and the judges of what they make."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import tool

from pybak.backup.compress import compress_batches
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from pybak.formats import manifest
from pybak.options import BackupOptions
from pybak.report import BackupReport
from pybak.storage.local import publish

MANIFEST = manifest.MEMBER_NAME.decode()
UTF8 = os.environ | {"LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Outcome:
    """A finished backup."""

    report: BackupReport
    path: Path
    plan: BackupPlan

    @property
    def errors(self) -> dict[str, str]:
        """The failed paths with their codes."""
        return {problem.path: problem.code for problem in self.report.errors}

    @property
    def skipped(self) -> dict[str, str]:
        return {problem.path: problem.code for problem in self.report.skipped}

    @property
    def records(self) -> dict[str, manifest.Record]:
        """The manifest's lines by member name; fails if a name is there twice."""
        with zipfile.ZipFile(self.path) as archive:
            found = list(manifest.read_manifest(archive.read(MANIFEST)).records())
        records = {record.path: record for record in found}
        assert len(records) == len(found)
        return records

    @property
    def contents(self) -> dict[str, bytes]:
        """The archive's members as Python's zipfile reads them, without the manifest."""
        with zipfile.ZipFile(self.path) as archive:
            names = archive.namelist()
            assert len(names) == len(set(names)), "a member is there twice"
            assert names[-1] == MANIFEST
            return {name: archive.read(name) for name in names[:-1]}


def back_up(
    *sources: Path | str | bytes,
    to: Path,
    job: str | None = None,
    threads: int = 2,
    before_reading: Callable[[BackupRun], object] = lambda _run: None,
    compress: Callable[..., Any] = compress_batches,
    **options: Any,
) -> Outcome:
    """Do what the backup flow does, with threads as workers.

    `before_reading` is called when the sources are listed and planned, and nothing is read yet.
    """
    more = {"read": options.pop("read")} if "read" in options else {}
    options.setdefault("workers", threads)
    with BackupRun(
        [os.fsdecode(source) for source in sources],
        output=None,
        to=str(to),
        job=job,
        options=BackupOptions(**options),
    ) as run:
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        before_reading(run)
        with run.assembling() as assembling:
            with ThreadPoolExecutor(threads) as pool:
                hands = [
                    pool.submit(compress, run.staging, hand.batches(), **more)
                    for hand in plan.hands
                ]
                for hand in hands:
                    hand.result()
            assembly = assembling.finish(run.header(), run.owner_names(kept))
        path, volume = publish(assembly, run.destination)
        report = run.report(plan=plan, kept=kept, assembly=assembly, path=path, volume=volume)
    assert path.stat().st_size == report.bytes_stored
    return Outcome(report, path, plan)


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


def unpack(archive: Path, target: Path, program: str = "bsdtar") -> Path:
    """Unpack with a stock program, the manifest left out; give `target`."""
    target.mkdir()
    command = {
        "bsdtar": ["-xpf", archive, "-C", target, "--exclude", ".pybak"],
        "unzip": ["-qq", "-K", "-o", archive, "-x", ".pybak/*", "-d", target],
        "7zz": ["x", "-y", "-bso0", "-snld", "-xr!.pybak", f"-o{target}", archive],
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
    assert done.returncode in allow, f"{program}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def judge(archive: Path, programs: Sequence[str] = ("unzip", "7zz", "bsdtar")) -> None:
    """Have every stock program check the archive; fails if one finds anything wrong."""
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        members = len(file.infolist())
    for program in programs:
        if program == "unzip":
            run_tool(program, "-tqq", archive)
        elif program == "7zz":
            said = run_tool(program, "t", archive)
            assert "Everything is Ok" in said
            assert "Warning" not in said
        else:
            assert len(run_tool(program, "-tf", archive).splitlines()) >= members


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
