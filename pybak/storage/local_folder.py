"""A local folder, or a mounted share, as a storage.

A file is written in a hidden work folder beside its place (`pybak.staging`), brought to the disk,
and then gets its name as a hard link, which fails if there is such a file. On file systems without
hard links (CIFS, exFAT) the name is taken by an empty file that the finished one replaces. Parts
are files in the work folder, copied together at the end by the kernel where it can. When a process
is killed, its locks end with it and the next run removes what it left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pybak.errors import ExistsError, NotFoundError, PyBakError, StorageError
from pybak.staging import NO_HARD_LINKS, PREFIX, WorkFolder, reason, sync_folder
from pybak.storage.protocol import Body, PartLimits, SentPart, Stored, Upload
from pybak.writing import write_all

LIMITS: Final = PartLimits(least=1, most=1 << 40, count=10_000)
_BLOCK: Final = 1 << 20
_UPLOAD: Final = "upload-"
_ABOUT: Final = "about.json"
_JOINED: Final = "joined"
_WRITE_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NO_KERNEL_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
"""What `os.copy_file_range` fails with where the kernel can't copy between two files."""
_PASSING: Final = frozenset({errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EHOSTDOWN})
"""What shares fail with for a while."""


class FolderStorage:
    """The files of one folder: a `pybak.storage.protocol.Storage`. It must be there already.

    `root` is the folder that has a name of its own, if this is one below it. Every
    method raises StorageError, and NotFoundError where the folder is gone.
    """

    def __init__(self, path: str, *, root: str | None = None) -> None:
        self._path = Path(path)
        self.root = root or path
        self._lock = threading.Lock()
        self._begun: dict[str, WorkFolder] = {}

    def __reduce__(self) -> tuple[type[FolderStorage], tuple[str]]:
        return FolderStorage, (self.address,)

    @property
    def address(self) -> str:
        """Its path."""
        return str(self._path)

    @property
    def limits(self) -> PartLimits:
        """What it takes in parts."""
        return LIMITS

    def check(self) -> None:
        """See that the folder is there and can be listed."""
        with self._told(self._path), os.scandir(self._path):
            pass

    def stat(self, name: str) -> Stored | None:
        """Give what is known of a file; None if there is none."""
        path = self._of(name)
        with self._told(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
        return _stored(name, status) if stat.S_ISREG(status.st_mode) else None

    def list(self) -> Iterator[Stored]:
        """Yield the files directly in this folder, by their names."""
        with self._told(self._path):
            names = sorted(os.listdir(self._path), key=os.fsencode)
        for name in names:
            if not name.startswith(PREFIX) and (found := self.stat(name)) is not None:
                yield found

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        """Read bytes of a file; fewer, or none, only at its end."""
        path = self._of(name)
        with self._told(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if version is not None and _version(os.fstat(fd)) != version:
                    raise _replaced(path)
                got = bytearray()
                while len(got) < length:
                    block = os.pread(fd, min(length - len(got), _BLOCK), offset + len(got))
                    if not block:
                        break
                    got += block
                return bytes(got)
            finally:
                os.close(fd)

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:  # noqa: ARG002 - all are alike
        """Write a whole file at once. Raises ExistsError if there is one."""
        path = self._of(name)
        work = self._work_folder()
        try:
            with self._told(path):
                finished = work.path / _JOINED
                _write(finished, body, sync=True)
                return self._name(finished, path)
        finally:
            work.remove()

    def begin(self, name: str) -> Upload:
        """Start to send a file in parts."""
        path = self._of(name)
        work = self._work_folder()
        try:
            with self._told(path):
                about = work.path / _ABOUT
                about.write_text(json.dumps({"name": name}), "ascii")
                upload = Upload(name, work.path.name, about.stat().st_mtime_ns)
        except BaseException:
            work.remove()
            raise
        with self._lock:
            self._begun[upload.token] = work
        return upload

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        """Send one part, from any process of this machine."""
        token = os.urandom(8).hex()
        path = self._of(upload.name)
        with self._told(path):
            try:
                _write(self._part(upload, number, token), body, sync=False)
            except FileNotFoundError:
                raise StorageError(f"{path}: its upload was dropped; start again") from None
        return SentPart(number, body.size, body.sha256, token)

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        """Make a file of these parts. If that fails half-way, the upload can only be aborted."""
        path = self._of(upload.name)
        if path.exists():
            self.abort(upload)
            raise _taken(path)
        if not parts:
            raise StorageError(f"{path}: a file of no parts can't be made; put it whole")
        finished = self._of_upload(upload) / _JOINED
        with self._told(path):
            self._check_parts(upload, parts, path)
            self._join(upload, sorted(parts, key=lambda part: part.number), finished)
            size = sum(part.size for part in parts)
            if finished.stat().st_size != size:
                raise StorageError(f"{path}: other bytes were written than sent; check the disk")
            try:
                stored = self._name(finished, path)
            except ExistsError:
                self.abort(upload)
                raise
        self.abort(upload)
        return stored

    def _check_parts(self, upload: Upload, parts: Sequence[SentPart], path: Path) -> None:
        for part in parts:
            try:
                size = self._part(upload, part.number, part.token).stat().st_size
            except FileNotFoundError:
                size = -1
            if size != part.size:
                raise StorageError(
                    f"{path}: part {part.number} is not as it was sent; send it again"
                )

    def _join(self, upload: Upload, parts: Sequence[SentPart], finished: Path) -> None:
        """Append the parts to the first of them; each goes as soon as it is copied."""
        first, *others = (self._part(upload, part.number, part.token) for part in parts)
        first.rename(finished)
        target = os.open(finished, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.lseek(target, 0, os.SEEK_END)
            for part in others:
                _append(target, part)
                part.unlink()
            os.fsync(target)
        finally:
            os.close(target)

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; fine if it is gone."""
        with self._lock:
            work = self._begun.pop(upload.token, None)
        if work is not None:
            work.remove()
        with self._told(self._of(upload.name)), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._of_upload(upload))

    def unfinished(self) -> Iterator[Upload]:
        """Yield the uploads into this folder that were begun, also those of dead processes."""
        with self._told(self._path):
            found = sorted(self._path.glob(f"{PREFIX}{_UPLOAD}*/{_ABOUT}"))
        for about in found:
            with contextlib.suppress(OSError, ValueError, KeyError):  # being removed
                name = json.loads(about.read_text("ascii"))["name"]
                yield Upload(name, about.parent.name, about.stat().st_mtime_ns)

    def newest_ns(self, upload: Upload) -> int:
        """Give when the newest part of an upload was sent, or it was begun; 0 if it is gone."""
        newest = 0
        with (
            self._told(self._of(upload.name)),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._of_upload(upload)) as found,
        ):
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    newest = max(newest, entry.stat().st_mtime_ns)
        return newest

    def delete(self, name: str, *, version: str | None = None) -> bool:
        """Delete a file; False if there is none."""
        path = self._of(name)
        with self._told(path):
            try:
                if version is not None and _version(path.stat()) != version:
                    raise _replaced(path)
                path.unlink()
            except FileNotFoundError:
                return False
            sync_folder(self._path)
        return True

    def close(self) -> None:
        """Drop the uploads that were begun here and never ended."""
        with self._lock:
            begun = list(self._begun.values())
            self._begun.clear()
        for work in begun:
            work.remove()

    def _of(self, name: str) -> Path:
        """Give a file's path. Raises StorageError for what is no name of a file in this folder."""
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise StorageError(f"{self._path}/{name}: is no name of a file; leave out the /")
        if name.startswith(PREFIX):
            raise StorageError(
                f"{self._path}/{name}: is a name for unfinished work; choose another"
            )
        return self._path / name

    def _work_folder(self) -> WorkFolder:
        with self._told(self._path):
            if not stat.S_ISDIR(self._path.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return WorkFolder.create(self._path, f"{_UPLOAD}{os.urandom(8).hex()}")

    def _of_upload(self, upload: Upload) -> Path:
        token = upload.token
        if not token.startswith(f"{PREFIX}{_UPLOAD}") or "/" in token:
            raise StorageError(f"{self._path}/{upload.name}: is no upload into this folder")
        return self._path / token

    def _part(self, upload: Upload, number: int, token: str) -> Path:
        return self._of_upload(upload) / f"{number}-{os.path.basename(token)}"

    def _name(self, finished: Path, path: Path) -> Stored:
        """Give a finished file its name, and bring that to the disk. Raises ExistsError."""
        try:
            os.link(finished, path)
        except FileExistsError:
            # A share may repeat a request whose reply was lost.
            if not os.path.samefile(finished, path):
                raise _taken(path) from None
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            _move(finished, path)
        try:
            sync_folder(self._path)
            return _stored(path.name, path.stat())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """Say where a system call failed, why, and what to do."""
        try:
            yield
        except PyBakError:
            raise
        except FileNotFoundError as error:
            if path != self._path and self._path.is_dir():
                raise NotFoundError(f"{path}: there is no such file; check its name") from error
            raise NotFoundError(
                f"{self._path}: there is no such folder; make it, or mount what belongs there"
            ) from error
        except NotADirectoryError as error:
            raise NotFoundError(f"{self._path}: is no folder; name one") from error
        except OSError as error:
            advice = {
                errno.ENOSPC: "free some", errno.EDQUOT: "free some", errno.EACCES: "allow it",
                errno.EPERM: "allow it", errno.EROFS: "mount it for writing",
                errno.ENAMETOOLONG: "choose a shorter one",
            }.get(error.errno or 0, "check the disk")  # fmt: skip
            raise StorageError(
                f"{path}: {reason(error)}; {advice}", retryable=error.errno in _PASSING
            ) from error


def _write(path: Path, body: Body, *, sync: bool) -> None:
    """Write a body to a new file of its own. Raises StorageError if it is not what it says."""
    fd = os.open(path, _WRITE_NEW, 0o600)
    try:
        with open(fd, "wb", buffering=0) as out:
            for block in _blocks(body, path):
                write_all(fd, block)
            if sync:
                os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _blocks(body: Body, path: Path) -> Iterator[bytes]:
    """Yield the bytes of a body; raise StorageError at the end if they are not what it says."""
    digest, size = hashlib.sha256(), 0
    try:
        with body.open() as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                size += len(block)
                yield block
    except OSError as error:
        raise StorageError(f"{path}: what is to be written can't be read: {error}") from error
    if size != body.size or digest.hexdigest() != body.sha256:
        raise StorageError(f"{path}: what is to be written changed meanwhile; start again")


def _append(target: int, part: Path) -> None:
    """Append a file to another; no byte passes through here where the kernel can copy."""
    source = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "copy_file_range"):
            try:
                while os.copy_file_range(source, target, 1 << 30):
                    pass
                # A file system may say too early that there is no more: read what is left.
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
        while block := os.read(source, _BLOCK):
            write_all(target, block)
    finally:
        os.close(source)


def _move(finished: Path, path: Path) -> None:
    """Name a file where it can't have two names. Raises ExistsError."""
    try:
        os.close(os.open(path, _WRITE_NEW, 0o600))
    except FileExistsError:
        raise _taken(path) from None
    try:
        finished.replace(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _stored(name: str, status: os.stat_result) -> Stored:
    return Stored(name, status.st_size, status.st_mtime_ns, _version(status))


def _version(status: os.stat_result) -> str:
    # Shares may give a file another number at each look.
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _taken(path: Path) -> ExistsError:
    return ExistsError(f"{path}: is there already; choose another name")


def _replaced(path: Path) -> StorageError:
    return StorageError(f"{path}: was replaced by another file meanwhile; start again")
