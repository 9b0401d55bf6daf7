"""Whole backup runs by the engine to Swift, over a wire that fails, and what must be left."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from backing_up import Outcome, back_up, judge_outcome, noise, prose
from s3_servers import S3Server
from sent import compare, small_parts
from waiting import wait_for

from blocks.s3 import S3Settings, S3Storage
from pybak.errors import NotFoundError
from pybak.problems import read_problems
from pybak.storage import opening
from pybak.verify.check import plan_verify, verify_batch
from pybak.volumes.find import find_volumes

PIECE = 5 << 20
SEEN_SECONDS = 20
BY_WORKERS: dict[str, Any] = {"cluster": "threads", "workers": 2, "chunk_size": 4, "level": 1}
BY_RUN: dict[str, Any] = {"level": 1}
VOLUMES: dict[str, Any] = {"format": "tar", "split": "12MB"}


def make_source(folder: Path, files: int = 26) -> Path:
    """Make a folder of so many MB that don't compress."""
    src = folder / "src"
    src.mkdir()
    for number in range(files):
        (src / f"f{number:03d}").write_bytes(noise(1 << 20, number % 32))
    (src / "text").write_bytes(prose(100_000))
    return src


def small(patch: pytest.MonkeyPatch) -> None:
    """Have parts as small as S3 allows, and workers that send few of them."""
    small_parts(patch, PIECE)
    patch.setattr("pybak.backup.stretches._LEAST_PARTS", 1)


def short_pauses(patch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    patch.setattr("blocks.s3_client._LONGEST_PAUSE_S", 0.02)


class Place:
    """A folder in a new bucket of Swift, reached at `endpoint`; looked at without detours."""

    def __init__(self, server: S3Server, endpoint: str, **more: Any) -> None:
        self._server = server
        self.bucket = server.new_bucket()
        self.storage = self.at(endpoint, **more)
        self.address = self.storage.address

    def at(self, endpoint: str | None = None, **more: Any) -> S3Storage:
        """Give the storage as it is seen from somewhere, or with other settings."""
        return S3Storage(
            S3Settings(
                **{
                    "bucket": self.bucket, "prefix": "backups", "attempts": 3, "rounds": 3,
                    "endpoint": endpoint or self._server.endpoint, "connect_timeout_s": 5,
                    "read_timeout_s": 20, "session": self._server.session, **more,
                }
            )
        )  # fmt: skip

    def use(self, patch: pytest.MonkeyPatch, storage: S3Storage | None = None) -> None:
        """Have the engine find this storage at its address."""
        found = storage or self.storage

        def give(address: str) -> S3Storage:
            if address != self.address:
                raise NotFoundError(f"{address}: there is no such storage in this test")
            return found

        patch.setattr(opening, "_open", give)

    def names(self) -> list[str]:
        """Give the names of all objects in the bucket, below `backups/`."""
        found = self._server.client().list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(one["Key"].removeprefix("backups/") for one in found)

    def uploads(self) -> int:
        """Count the unfinished uploads."""
        found = self._server.client().list_multipart_uploads(Bucket=self.bucket)
        return len(found.get("Uploads", []))

    def holds(self, files: int, uploads: int = 0) -> None:
        """See that there are so many, once a busy Swift lists them as they are."""
        wait_for(
            lambda: (len(self.names()), self.uploads()) == (files, uploads), 20,
            told=lambda: (self.names(), self.uploads()),
        )  # fmt: skip

    def holds_nothing(self, home: Path) -> None:
        """No object and no upload there; no note and no staged file here."""
        self.holds(0)
        nothing_here(home)

    def fetch(self, name: str, folder: Path) -> Path:
        """Download a file."""
        folder.mkdir(exist_ok=True)
        self._server.client().download_file(self.bucket, f"backups/{name}", str(folder / name))
        return folder / name

    def holds_whole(self, done: Outcome, src: Path, folder: Path) -> None:
        """Only the archive is there, and both `verify` and stock programs call it whole."""
        self.holds(len(done.report.volumes))
        assert done.report.status == "success"
        local = []
        for volume in done.report.volumes:
            file = self.fetch(volume.uri.rpartition("/")[2], folder)
            compare(volume, file.read_bytes())
            local.append(msgspec.structs.replace(volume, uri=file.as_uri()))
        report = msgspec.structs.replace(done.report, volumes=tuple(local))
        path = folder / done.report.volumes[0].uri.rpartition("/")[2]
        if len(local) > 1:
            path = path.with_suffix("")
        here = Outcome(report, path, done.plan, done.password)
        judge_outcome(here, ["unzip"] if path.suffix == ".zip" else ["tar"])
        contents = here.contents
        expected = {f"src/{one.name}": one.read_bytes() for one in src.iterdir()}
        assert contents == expected | {"src/": b""}
        assert verified(done.report.volumes[0].uri, folder) == []


def verified(address: str, folder: Path) -> list[str]:
    """Check an archive where it lies; give what is bad."""
    (work := folder / f"work-{time.monotonic_ns()}").mkdir(parents=True)
    plan = plan_verify(find_volumes(os.fsencode(address)).paths, work_dir=work, tasks=2)
    assert plan.to_read == plan.members > 1
    found = list(plan.problems)
    for batch in plan.batches:
        found += read_problems(verify_batch(batch).problems_file)
    return [str(one.path) for one in found]


def nothing_here(home: Path) -> None:
    for folder in ("uploads", "staging"):
        assert not (home / folder).exists() or os.listdir(home / folder) == []


def run(src: Path, place: Place, **how: Any) -> Outcome:
    """Back up into the place."""
    return back_up(src, to=place.address, **how)  # type: ignore[arg-type]


def port_of(endpoint: str) -> int:
    return urlsplit(endpoint).port or 0
