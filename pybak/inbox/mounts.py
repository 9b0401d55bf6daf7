"""Whether a folder is the one that files were stored in before, or a mount point without its disk.

A folder is made only the first time. Later it must be there, and so must the file system that it
lay on, which is noted in PyBak's home by the path that it was mounted at: numbers of devices change
from one start of a machine to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from uuid import uuid4

from pybak.display import printable
from pybak.errors import NotFoundError, StorageError
from pybak.home import home
from pybak.staging import reason, sync_folder
from pybak.storage.local import make_folder


def prepare_folder(folder: Path, *, root: Path | None = None, is_known: bool = False) -> None:
    """Make a folder for files, if none were stored there before (`is_known`, or it is noted).

    `root` is one that is never made. Raises StorageError if what was there is not, NotFoundError
    for a missing root.
    """
    noted = _noted(folder)
    check_folder(folder, must_be_there=is_known or noted is not None)
    if root is not None and not root.is_dir():
        raise NotFoundError(
            f"{printable(str(root))}: there is no such folder; make it, or mount what belongs there"
        )
    for made in make_folder(folder):
        with contextlib.suppress(OSError):
            sync_folder(made.parent)
    mount = mount_point(folder)
    if mount != noted:
        _note(folder, mount)


def check_folder(folder: Path, *, must_be_there: bool = True) -> None:
    """Raise StorageError if a folder is missing, or the file system that it lay on."""
    where = printable(str(folder))
    noted = _noted(folder)
    if noted is not None and not os.path.ismount(noted) and mount_point(folder) != noted:
        raise StorageError(
            f"{where}: nothing is mounted at {printable(noted)}, where files were stored; mount "
            f"it, or, if it was moved for good, remove {printable(str(_note_path(folder)))}"
        )
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        if must_be_there:
            raise StorageError(
                f"{where}: is not there, though files were stored in it; is it mounted? If it was "
                "removed, make it again"
            ) from None
    except OSError as error:
        raise StorageError(f"{where}: {reason(error)}; check the disk and the folder") from error
    else:
        if not is_folder:
            raise StorageError(f"{where}: is no folder; choose another")


def mount_point(folder: Path) -> str:
    """Give where the file system is mounted that a folder lies on, or would lie on."""
    at = os.path.realpath(folder)
    while not os.path.ismount(at) and at != os.path.dirname(at):
        at = os.path.dirname(at)
    return at


def _note_path(folder: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()
    return home() / "places" / f"{digest[:32]}.json"


def _noted(folder: Path) -> str | None:
    """Give the mount point that was noted for a folder. Raises StorageError."""
    path = _note_path(folder)
    try:
        return str(json.loads(path.read_bytes())["mount"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {reason(error)}; check who may read it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: can't be understood; remove it") from error


def _note(folder: Path, mount: str) -> None:
    path = _note_path(folder)
    new = path.with_name(f"{path.name}.{uuid4()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with new.open("xb") as out:
                out.write(json.dumps({"folder": str(folder), "mount": mount}).encode())
                out.flush()
                os.fsync(out.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"{path}: {reason(error)}; free some space, or allow it") from error
