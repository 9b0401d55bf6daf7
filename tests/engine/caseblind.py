"""A folder that ignores case, which no file system does that every machine has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pybak.restore.names import folded


class CaseBlind:
    """Has a folder and all below it ignore case, for what goes through `os`.

    Names keep the spelling that they were made with, as on FAT, and on ext4 with `+F`. With
    `drops_end` dots at their end are left away, as FAT does. `open` of Python itself is not
    changed, so a test reads by the names that are really there.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, drops_end: bool = False
    ) -> None:
        self._folder = os.fsencode(folder)
        self._drops_end = drops_end
        for name in ("open", "stat", "lstat", "unlink", "rmdir", "mkdir", "readlink", "symlink"):
            self._change(monkeypatch, name)
        for name in ("listxattr", "getxattr", "setxattr"):
            self._change(monkeypatch, name)
        for name in ("rename", "link"):
            self._change_two(monkeypatch, name)

    def _change(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)
        at = int(name == "symlink")

        def changed(*given: Any, dir_fd: int | None = None, **named: Any) -> Any:
            path = self._spelled(given[at], dir_fd)
            if dir_fd is not None:
                named["dir_fd"] = dir_fd
            return real(*given[:at], path, *given[at + 1 :], **named)

        monkeypatch.setattr(os, name, changed)

    def _change_two(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def changed(
            one: Any, other: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None,
            **named: Any,
        ) -> Any:  # fmt: skip
            one, other = self._spelled(one, src_dir_fd), self._spelled(other, dst_dir_fd)
            return real(one, other, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **named)

        monkeypatch.setattr(os, name, changed)

    def _spelled(self, path: Any, dir_fd: int | None) -> Any:
        """Give a path with the spelling that is there."""
        if isinstance(path, int):
            return path
        raw = os.fsencode(path)
        if dir_fd is not None and not raw.startswith(b"/"):
            name = self._component(self._folder_of(dir_fd), raw)
            return name if name != raw else path
        if raw.startswith(b"/proc/self/fd/") and raw.count(b"/") == 5:
            start, _, name = raw.rpartition(b"/")
            return start + b"/" + self._component(self._folder_of(int(start[14:])), name)
        if not raw.startswith(self._folder + b"/"):
            return path
        found = self._folder
        for name in raw[len(found) + 1 :].split(b"/"):
            found += b"/" + self._component(found, name)
        return found

    def _folder_of(self, fd: int) -> bytes:
        return os.fsencode(os.path.realpath(f"/proc/self/fd/{fd}"))

    def _component(self, folder: bytes, name: bytes) -> bytes:
        if name in (b".", b"..") or not (folder + b"/").startswith(self._folder + b"/"):
            return name
        if self._drops_end:
            name = name.rstrip(b".")
        try:
            names = os.listdir(folder)
        except OSError:
            return name
        if name in names:
            return name
        return next((one for one in names if folded(one) == folded(name)), name)
