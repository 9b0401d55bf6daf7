"""What each level and each engine gives in size and speed, on one core.

    python -m benchmarks.levels /usr/lib
    python -m benchmarks.levels /usr/lib --streams

Takes a sample of the files below a folder (the same one every time), compresses each whole and
in pieces, and prints MB/s and the size against zlib 6. With `--streams` the sample is one run of
bytes, as in a tar archive, and every level of every tar format compresses it. MB/s are of
processor time. Engine choices in `pybak.formats.deflate` and `pybak.formats.streams` rest on this.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import deflate as libdeflate
from isal import isal_zlib
from zlib_ng import zlib_ng

from pybak.formats.deflate import WHOLE_LIMIT, deflater
from pybak.formats.streams import TAR_FORMATS, codec, engine_name

_RAW = -15


def main() -> None:
    """Measure on a sample of a folder."""
    parser = argparse.ArgumentParser(description="Sizes and speeds of the levels on one core.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--streams", action="store_true", help="the tar formats instead")
    chosen = parser.parse_args()
    data = _sample(chosen.folder, chosen.megabytes * 1_000_000)
    total = sum(map(len, data))
    print(f"{len(data)} files, {total / 1e6:.0f} MB")
    if chosen.streams:
        _measure_streams(b"".join(data))
        return
    reference = sum(min(len(zlib.compress(d, 6, _RAW)), len(d)) for d in data)
    for name, compress in _candidates():
        start = time.process_time()
        size = sum(min(len(compress(d)), len(d)) for d in data)
        seconds = time.process_time() - start
        print(f"{name:22} {total / seconds / 1e6:7.0f} MB/s   {size / reference:.4f} of zlib 6")


def _measure_streams(data: bytes) -> None:
    reference = len(zlib.compress(data, 6, _RAW))
    for name, level in itertools.product(TAR_FORMATS, range(1, 10)):
        how = codec(name, level)
        start = time.process_time()
        size = sum(
            len(how.pack(data[at : at + how.piece_bytes]))
            for at in range(0, len(data), how.piece_bytes)
        )
        seconds = time.process_time() - start
        print(
            f"{name:8} {level} {engine_name(name, level):24} {len(data) / seconds / 1e6:7.0f} MB/s"
            f"   {size / reference:.4f} of zlib 6",
            flush=True,
        )


def _candidates() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    for level in range(1, 10):
        engine = deflater(level)
        yield f"level {level} whole", engine.whole
        yield (
            f"level {level} in pieces",
            lambda d, e=engine: b"".join(
                e.piece(d[at : at + e.piece_bytes]) for at in range(0, len(d), e.piece_bytes)
            ),
        )
    for level in (0, 1, 2, 3):
        yield f"isal {level}", lambda d, n=level: isal_zlib.compress(d, n, _RAW)
    for level in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12):
        yield f"libdeflate {level}", lambda d, n=level: libdeflate.deflate_compress(d, n)
    for level in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        yield f"zlib-ng {level}", lambda d, n=level: zlib_ng.compress(d, n, _RAW)
    for level in (1, 6, 9):
        yield f"zlib {level}", lambda d, n=level: zlib.compress(d, n, _RAW)


def _sample(folder: Path, size: int) -> list[bytes]:
    paths = sorted(folder.rglob("*"))
    random.Random(1).shuffle(paths)
    data: list[bytes] = []
    for path in paths:
        if size <= 0:
            break
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            content = path.read_bytes()[:WHOLE_LIMIT]
            data.append(content)
            size -= len(content)
    return data


if __name__ == "__main__":
    main()
