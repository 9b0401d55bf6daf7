"""Which mounted file system an open folder lies on.

A device number is not enough: a folder mounted a second time (`mount --bind`) has the same one.
Linux numbers its mounts, in proc_pid_fdinfo(5).
"""

from __future__ import annotations

import os
import re
from typing import Final

_MOUNT: Final = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)
_ENOUGH: Final = 4096

Mount = tuple[int, int]
"""Device and number of the mount; 0 where the system does not tell the latter."""


def mount_of(fd: int) -> Mount:
    """Give the mount that an open file or folder lies on. Raises OSError as `fstat` does."""
    return os.fstat(fd).st_dev, _number(fd)


def _number(fd: int) -> int:
    try:
        info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        found = _MOUNT.search(os.read(info, _ENOUGH))
    except OSError:
        return 0
    finally:
        os.close(info)
    return int(found[1]) if found else 0
