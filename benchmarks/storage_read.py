"""Archives in an S3 server on this machine: what reading a little of a large one takes.

    python -m benchmarks.storage_read
    python -m benchmarks.storage_read --megabytes 200 --only zip

Makes files of 1 MB, every other one of noise, so that pieces of all kinds come about. An archive
of them goes to OpenStack Swift by Amazon's SDK. Then single files are restored from it by the
command; what the server sends for each is counted on the wire, by a proxy.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.backup import BACKUP
from benchmarks.measure import REPOSITORY, Measured, prefect_server, run

sys.path.append(str(REPOSITORY / "tests"))

from faults import FaultProxy
from s3_servers import S3Server, running_swift

FORMATS = ("zip", "tar.zst", "tar.gz")
MEGABYTE = 1_000_000
ALLOWED = 3 * MEGABYTE
"""What restoring one file of 1 MB may fetch."""
_RESTORE = str(REPOSITORY / "flows" / "restore.py")
_WORDS = 5000


def main() -> None:
    """Measure each format."""
    parser = argparse.ArgumentParser(description="Read a little of a large archive in S3.")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--files", type=int, default=4, help="how many files are restored")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
        scratch = Path(name)
        tree = make_tree(scratch / "files", chosen.megabytes)
        with prefect_server(scratch / "prefect") as prefect, running_swift(scratch) as swift:
            env = {**prefect, **swift.environment(), "PYBAK_HOME": str(scratch / "home")}
            for archive_format in chosen.only:
                archive = scratch / f"a.{archive_format}"
                command = [sys.executable, BACKUP, str(tree), "-o", str(archive), "--quiet"]
                run(Measured("backup"), command, env=env)
                address = _upload(swift, archive)
                _read(swift, address, archive.stat().st_size, tree, chosen.files, env)
                archive.unlink()


def make_tree(folder: Path, megabytes: int) -> Path:
    """Make files of 1 MB, by turns noise and words; the same ones each time."""
    chance = random.Random(1)
    words = [chance.randbytes(6).hex().encode() for _ in range(_WORDS)]
    folder.mkdir()
    for number in range(megabytes):
        if number % 2:
            data = b" ".join(chance.choices(words, k=MEGABYTE // 12))[:MEGABYTE]
        else:
            data = chance.randbytes(MEGABYTE)
        (folder / f"{number:05}.bin").write_bytes(data.ljust(MEGABYTE))
    return folder


def _upload(swift: S3Server, archive: Path) -> str:
    bucket = swift.new_bucket()
    start = time.perf_counter()
    swift.client().upload_file(str(archive), bucket, archive.name)
    size, seconds = archive.stat().st_size, time.perf_counter() - start
    print(f"{archive.name}: {size / 1e6:.0f} MB, sent by the SDK in {seconds:.1f} s", flush=True)
    return f"s3://{bucket}/{archive.name}"


def _read(
    swift: S3Server, address: str, size: int, tree: Path, count: int, env: dict[str, str]
) -> None:
    """Restore single files from all over the archive and print what was fetched for each."""
    names = sorted(file.name for file in tree.iterdir())
    for name in names[:: max(len(names) // count, 1)][:count]:
        proxy = FaultProxy(swift.endpoint)
        took = Measured(f"restore {name}")
        with tempfile.TemporaryDirectory() as target:
            command = [
                sys.executable, _RESTORE, address, "--to", target, "--include",
                f"/{tree.name}/{name}", "--quiet",
            ]  # fmt: skip
            run(took, command, env={**env, "AWS_ENDPOINT_URL_S3": proxy.endpoint})
            restored = Path(target) / tree.name / name
            if restored.read_bytes() != (tree / name).read_bytes():
                raise AssertionError(f"{name} came back as something else")
        proxy.close()
        verdict = "ok" if proxy.bytes_down <= ALLOWED else "TOO MUCH"
        print(
            f"  {took.name}: {proxy.bytes_down / 1e6:.2f} MB of {size / 1e6:.0f} MB in "
            f"{len(proxy.requests)} requests, {took.median:.1f} s  {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
