"""Where tests of extended attributes and ACLs can work."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def folder_with_attributes(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that takes `user.*` attributes and ACLs: `tmp_path`, or one elsewhere.

    Older kernels have no `user.*` on tmpfs, so the system's temporary folders are tried next.
    """
    for place in (tmp_path, Path("/var/tmp"), Path.cwd(), Path("/dev/shm")):
        try:
            folder = Path(tempfile.mkdtemp(prefix="pybak-test-", dir=place))
        except OSError:
            continue
        try:
            if _takes_attributes(folder):
                yield folder
                return
        finally:
            if place != tmp_path:
                shutil.rmtree(folder, ignore_errors=True)
    if os.environ.get("CI") == "true":
        pytest.fail("no folder takes extended attributes and ACLs", pytrace=False)
    pytest.skip("no folder takes extended attributes and ACLs")


def _takes_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.pybak", b"1")
        os.removexattr(folder, "user.pybak")
        set_acl(folder, "u:12345:rwx")
        os.removexattr(folder, "system.posix_acl_access")
    except (OSError, subprocess.CalledProcessError):
        return False
    folder.chmod(0o700)
    return True


def set_acl(path: Path | bytes, *entries: str, default: bool = False) -> None:
    """Add entries to an ACL as people do."""
    option = ["-d"] if default else []
    command = ["setfacl", *option, "-m", ",".join(entries), "--", os.fsdecode(path)]
    subprocess.run(command, check=True, capture_output=True)


def acl_text(path: Path | bytes) -> str:
    """Give both ACLs of a file as `getfacl` prints them, with numbers."""
    command = ["getfacl", "--omit-header", "--numeric", "--absolute-names", "--no-effective"]
    done = subprocess.run(
        [*command, "--", os.fsdecode(path)], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def attributes_by_getfattr(path: Path | bytes) -> str:
    """Give all attributes as `getfattr` prints them, values in hex; a link's own."""
    command = ["getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names"]
    done = subprocess.run([*command, "--", os.fsdecode(path)], check=True, capture_output=True)
    lines = os.fsdecode(done.stdout).strip().splitlines()
    return "\n".join(lines[1:])
