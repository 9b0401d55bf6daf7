"""Archives in a storage: backups into a local S3 server, beside a folder and the SDK's transfer.

    python -m benchmarks.storage [--size MB] [--rounds N] [upload] [write]

A server on the same machine takes its share of the processors: compare ratios only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import REPOSITORY, Measured, run

if TYPE_CHECKING:
    from s3_servers import S3Server

_MB = 1_000_000
_PARTS_AT_ONCE = 4
_PART_BYTES = 16 << 20


def make_source(folder: Path, size_bytes: int) -> None:
    """Make files of some hundred kB that do not compress, and one of a quarter of it all."""
    pick = random.Random(1)
    folder.mkdir(parents=True)
    left, number = size_bytes, 0
    while left > 0:
        size = min(left, size_bytes // 4 if number == 0 else pick.randrange(100_000, 2_000_000))
        with (folder / f"f{number:06d}").open("wb") as file:
            for _ in range(0, size, _MB):
                file.write(pick.randbytes(min(_MB, size)))
            file.truncate(size)
        left, number = left - size, number + 1


def write(server: S3Server, work: Path, size_bytes: int, rounds: int) -> None:
    """Measure the ways of getting a backup into a bucket, in turn."""
    source, bucket = work / "source", server.new_bucket()
    make_source(source, size_bytes)
    environment = server.environment() | {
        "PYBAK_HOME": str(work / "home"), "PREFECT_HOME": str(work / "prefect"),
    }  # fmt: skip
    backup = [sys.executable, "flows/backup.py", str(source), "--level", "1"]
    folder, sdk = Measured("backup to a folder"), Measured("upload by the SDK")
    ours, staged = Measured("backup to S3"), []
    for number in range(rounds + 1):
        if number == 1:  # the first round warms up
            folder, sdk, ours = (Measured(one.name) for one in (folder, sdk, ours))
        target = work / f"out{number}"
        run(folder, [*backup, "--to", str(target)], env=environment, cwd=REPOSITORY)
        (archive,) = target.iterdir()
        _upload(sdk, server, bucket, archive)
        shutil.rmtree(target)
        with _watched(work / "home/staging") as peak:
            run(
                ours, [*backup, "--to", f"s3://{bucket}/{number}"], env=environment,
                cwd=REPOSITORY, weigh=True,
            )  # fmt: skip
        staged.append(peak[0])
        _empty(server, bucket)
    for one in (folder, sdk, ours):
        print(one.row())
    ratio = ours.median / (folder.median + sdk.median)
    print(f"S3 / (folder + upload)       {ratio:.2f}  (at most 1.15)")
    print(f"peak staging                 {max(staged) / 1e6:.0f} MB")


def _upload(into: Measured, server: S3Server, bucket: str, archive: Path) -> None:
    from boto3.s3.transfer import TransferConfig

    start, before = time.perf_counter(), time.process_time()
    server.client().upload_file(
        str(archive), bucket, "sdk.zip",
        Config=TransferConfig(
            multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        ),
    )  # fmt: skip
    into.seconds.append(time.perf_counter() - start)
    into.cpu_seconds.append(time.process_time() - before)
    into.stored = archive.stat().st_size


def upload_alone(server: S3Server, work: Path, size_bytes: int, rounds: int) -> None:
    """Measure sending one large file in parts by the engine, beside the SDK's transfer."""
    from blocks.s3 import S3Settings, S3Storage
    from pybak.backup.part_sizes import PartSizes
    from pybak.backup.send_parts import PartedFile
    from pybak.backup.send_pieces import StagedFiles
    from pybak.backup.sender import Sender

    bucket = server.new_bucket()
    storage = S3Storage(
        S3Settings(bucket=bucket, prefix="p", endpoint=server.endpoint, session=server.session)
    )
    sdk, ours = Measured("upload by the SDK"), Measured("upload by the engine")
    for number in range(rounds + 1):
        if number == 1:
            sdk, ours = Measured(sdk.name), Measured(ours.name)
        archive = work / "archive"
        with archive.open("wb") as file:
            for _ in range(size_bytes // _MB):
                file.write(os.urandom(_MB))
        _upload(sdk, server, bucket, archive)
        files = StagedFiles()
        sender = Sender(storage, files, threads=_PARTS_AT_ONCE)
        start, before = time.perf_counter(), time.process_time()
        sent = PartedFile("a", sender, PartSizes(storage.limits, size_bytes))
        sent.add(files.add(os.fsencode(archive), size_bytes))
        sent.finish()
        sent.wait()
        sent.complete()
        ours.seconds.append(time.perf_counter() - start)
        ours.cpu_seconds.append(time.process_time() - before)
        sender.stop()
        _empty(server, bucket)
    for one in (sdk, ours):
        print(one.row())
    print(f"SDK / engine                 {sdk.median / ours.median:.2f}  (at least 0.90)")


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """Give what will hold the most bytes that ever lay in the staging folder."""
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            total = 0
            for path in folder.glob("*/segments/*"):
                with contextlib.suppress(OSError):
                    total += path.stat().st_size
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _empty(server: S3Server, bucket: str) -> None:
    client = server.client()
    for one in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=one["Key"])


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1200, help="MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("what", nargs="*", default=["upload", "write"])
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from s3_servers import running_swift

    with tempfile.TemporaryDirectory(prefix="pybak-bench-") as place:
        work = Path(place)
        (work / "swift").mkdir()
        with running_swift(work / "swift") as server:
            print(f"{os.getloadavg()[0]:.1f} load, {os.cpu_count()} processors")
            if "upload" in given.what:
                upload_alone(server, work, given.size * _MB, given.rounds)
            if "write" in given.what:
                write(server, work, given.size * _MB, given.rounds)


if __name__ == "__main__":
    main()
