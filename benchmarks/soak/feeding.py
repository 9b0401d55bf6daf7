"""What people do meanwhile: they edit documents and drop files into the inbox."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

_DOCUMENTS = 500
_PAUSE_SECONDS = 12.0
_SLOW_SECONDS = 20.0
_WORDS = [f"word{number}" for number in range(2000)]


@dataclass
class Fed:
    """The SHA-256 (hex) of every content that was dropped, and how many files there were."""

    contents: set[str] = field(default_factory=set)
    files: int = 0
    duplicates: int = 0


class Feeder(threading.Thread):
    """Changes the folder `documents` and fills the folder `inbox` until it is stopped."""

    def __init__(self, documents: Path, inbox: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self._documents = documents
        self._inbox = inbox
        self._chance = random.Random(seed)
        self._stopped = threading.Event()
        self._last = b""
        self.fed = Fed()

    def prepare(self) -> None:
        """Make the documents that are there at the beginning."""
        self._inbox.mkdir(parents=True)
        for number in range(_DOCUMENTS):
            path = self._documents / f"folder{number % 20}" / f"letter {number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content())

    def stop(self) -> None:
        """Stop it, and wait until the last file is whole."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Change a little, drop a little, wait a little."""
        turn = 0
        while not self._stopped.is_set():
            self._edit()
            for number in range(self._chance.randint(0, 4)):
                self._drop(f"scan {turn}-{number}.csv", self._content())
            if turn % 5 == 4 and self._last:
                self._drop(f"again {turn}.csv", self._last)
                self.fed.duplicates += 1
            if turn % 7 == 6:
                self._drop(f"slow {turn}.csv", self._content(), slowly=True)
            turn += 1
            self._stopped.wait(self._chance.uniform(0.5, 1.5) * _PAUSE_SECONDS)

    def _content(self) -> bytes:
        return " ".join(self._chance.choices(_WORDS, k=self._chance.randint(50, 20_000))).encode()

    def _edit(self) -> None:
        files = sorted(self._documents.rglob("*.txt"))
        for path in self._chance.sample(files, 3):
            path.write_bytes(self._content())
        if self._chance.random() < 0.5:
            self._chance.choice(files).unlink()
        name = f"new {self._chance.randrange(10**9)}.txt"
        (self._documents / "folder0" / name).write_bytes(self._content())

    def _drop(self, name: str, data: bytes, *, slowly: bool = False) -> None:
        """Write a file into the inbox, at once or in two pieces with a pause between them."""
        with (self._inbox / name).open("wb", buffering=0) as file:
            half = len(data) // 2
            file.write(data[:half])
            if slowly:
                self._stopped.wait(_SLOW_SECONDS)
            file.write(data[half:])
        self._last = data
        self.fed.contents.add(hashlib.sha256(data).hexdigest())
        self.fed.files += 1
