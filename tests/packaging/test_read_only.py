"""Backup and restore where nothing but the state's folder can be written, as in a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PROJECT

# In a mount and a network namespace of its own, which go with the process.
LOCKED_UP = """
set -eu
ip link set lo up
mount --make-rprivate /
mount --bind "$DATA" "$DATA"
mount -o remount,ro,bind /
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs sh -euc "$1"
"""
ROUND = """
if touch /probe "$SOURCE/probe" 2>/dev/null; then echo "can be written"; exit 9; fi
"$PYTHON" flows/backup.py "$SOURCE" --to "$DATA/backups" --job try -f tar.zst --quiet
"$PYTHON" flows/restore.py latest --job try --to "$DATA/restored" --quiet
"$PYTHON" -m deployments.health command
"""


@pytest.mark.needs_root
@pytest.mark.needs_tool("unshare", "setpriv", "ip", "mount", "diff")
def test_a_round_trip_needs_one_writable_folder_and_no_rights(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    (source / "sub").mkdir(parents=True)
    data.mkdir()
    (source / "letter.txt").write_text("Dear reader\n")
    (source / "sub" / "large.bin").write_bytes(os.urandom(3_000_000))
    (data / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "PYTHON": sys.executable, "SOURCE": str(source),
        "DATA": str(data), "HOME": str(data), "TMPDIR": str(data / "tmp"),
        "PYBAK_HOME": str(data / "pybak"), "PREFECT_HOME": str(data / "prefect"),
        "DO_NOT_TRACK": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", LOCKED_UP, "locked-up", ROUND],
        cwd=PROJECT, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run(["diff", "-r", source, data / "restored" / "source"]).returncode == 0
    assert list((data / "tmp").iterdir()) == []
