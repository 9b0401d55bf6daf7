"""Compare content with the manifest's SHA-256 while it streams by: one digest, or one a part."""

from __future__ import annotations

import hashlib

from pybak.restore.items import Item


class ContentCheck:
    """Takes a member's content in chunks and tells at the end whether it is the recorded one.

    A member without recorded digests always matches.
    """

    def __init__(self, item: Item) -> None:
        self._digest = hashlib.sha256()
        self._expected = [(part.size, part.sha256) for part in reversed(item.parts)]
        self._is_checked = bool(item.sha256 or item.parts)
        if item.sha256:
            self._expected = [(item.content_size, item.sha256)]
        self._left = self._expected[-1][0] if self._expected else 0
        self._good = True

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the content."""
        if not self._is_checked:
            return
        view = memoryview(chunk)
        while len(view) > self._left:
            self._digest.update(view[: self._left])
            view = view[self._left :]
            if not self._end_part():
                return
        self._digest.update(view)
        self._left -= len(view)

    def _end_part(self) -> bool:
        """Compare a finished part; False when there is no further one."""
        _, sha256 = self._expected.pop()
        self._good = self._good and self._digest.hexdigest() == sha256
        self._digest = hashlib.sha256()
        if not self._expected:
            self._good = self._is_checked = False
            return False
        self._left = self._expected[-1][0]
        return True

    def matches(self) -> bool:
        """Whether all of the content was what the manifest says."""
        while self._is_checked and self._left == 0 and len(self._expected) > 1:
            self._end_part()  # what is left are parts of a file that had shrunk: all empty
        if not self._is_checked:
            return self._good
        return (
            self._good
            and self._left == 0
            and len(self._expected) == 1
            and self._digest.hexdigest() == self._expected[0][1]
        )
