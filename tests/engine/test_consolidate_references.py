"""Rows that have only their content in an archive, under another name: each becomes a member."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, noise, prose, shrink
from consolidating import Chain, raw, verified

from pybak.catalog.engine import Database
from pybak.catalog.rows import execute

KINDS: dict[str, dict[str, Any]] = {
    "zip": {},
    "aes": {"password": PASSWORD},
    "tar": {"format": "tar"},
    "tar.gz": {"format": "tar.gz"},
    "tar.bz2": {"format": "tar.bz2"},
    "wrapped": {"format": "tar.zst", "password": PASSWORD},
}


def refer(chain: Chain, name: str, member: str) -> None:
    """Have the newest version of a file refer to the first run's archive for its content."""
    status = os.lstat(chain.source / name)
    database = Database(chain.job.url)
    with database.transaction() as connection:
        changed = execute(
            connection,
            "UPDATE file_version SET member = ?, archive_id = (SELECT MIN(id) FROM archive), "
            "size = ?, mtime_ns = ?, mode = ? WHERE path = ? AND gone_seq IS NULL",
            (f"docs/{member}", status.st_size, status.st_mtime_ns, status.st_mode & 0o7777,
             f"docs/{name}"),
        )  # fmt: skip
    database.close()
    assert changed == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5_000, 200_000])
def test_what_was_referred_to_becomes_members_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    """A moved file, a second copy of one that stays, and one whose mode alone has changed."""
    shrink(monkeypatch, part=60_000)
    chain = Chain(tmp_path, **KINDS[kind])
    source = chain.source
    moved = {"moved" + str(number): prose(900, number) for number in range(30)}
    chain.write({**moved, "a": prose(size, 100), "m": noise(size, 1), "s": "same"})
    chain.run("full")
    os.rename(source / "a", source / "new-name")
    os.chmod(source / "new-name", 0o604)
    (source / "copy").write_bytes((source / "m").read_bytes())
    os.utime(source / "copy", ns=(1, 1_600_000_000_123_456_789))
    os.chmod(source / "s", 0o600)
    for number in range(0, 30, 3):
        (source / f"moved{number}").unlink()
    chain.run()
    for name, member in (("new-name", "a"), ("copy", "m"), ("s", "s")):
        refer(chain, name, member)
    chain.check()
    archive = chain.consolidated()
    verified(archive, chain.password)
    chain.check()
    if kind == "aes":
        salts = [data[:16] for data in raw(archive).values() if data]
        assert len(set(salts)) == len(salts)
    with chain.job.history() as history:
        (snapshot,) = history.snapshots("docs")
        assert not list(history.references(snapshot))
        versions = {one.path: one for one in history.versions(snapshot)}
    assert versions[b"docs/new-name"].size == size
    assert versions[b"docs/new-name"].sha256 or versions[b"docs/new-name"].parts
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held
    made = chain.job.run(password=chain.password, **chain.options)
    assert made.report.status == "unchanged", json.dumps(made.report.files.to_json())


@pytest.mark.parametrize("kind", ["zip", "aes", "tar.gz", "wrapped"])
def test_what_a_run_found_stored_already_becomes_members(tmp_path: Path, kind: str) -> None:
    """What later archives refer to stays, for their manifests name it. (case 49)"""
    chain = Chain(tmp_path, **KINDS[kind])
    source = chain.source
    chain.write({f"f{number}": prose(3000, number) for number in range(10)})
    chain.run("full")
    os.rename(source / "f1", source / "renamed")
    (source / "copy").write_bytes((source / "f2").read_bytes())
    chain.write({"own": prose(3000, 50)})
    chain.run(dedupe=True)
    (source / "f3").unlink()
    chain.write({"copy of own": prose(3000, 50), "again": prose(3000, 1)})
    chain.run(dedupe=True)
    os.rename(source / "own", source / "owned")
    chain.run("differential", dedupe=True)
    with chain.job.history() as history:
        assert all(list(history.references(one)) for one in history.snapshots("docs")[1:])
    done = chain.prune(keep_last=3)
    assert done.consolidated is not None
    assert done.consolidated.seq == 2
    verified(Path(done.consolidated.archive or ""), chain.password)
    chain.check()
    before = [(one.seq, one.status) for one in chain.job.snapshots]
    assert [seq for seq, _ in before] == [1, 2, 3, 4]
    chain.rebuild()
    assert [(one.seq, one.status) for one in chain.job.snapshots] == before
    chain.check()
    chain.prune(keep_last=1)
    chain.check()


@pytest.mark.parametrize("kind", ["aes", "tar.gz"])
def test_the_rows_are_rewritten_on_postgresql_too(
    tmp_path: Path, postgres_url: str, kind: str
) -> None:
    chain = Chain(tmp_path, catalog_url=postgres_url, **KINDS[kind])
    source = chain.source
    chain.write({"a": prose(3000, 1), "m": "m", "z": "z"})
    os.link(source / "a", source / "b")
    os.link(source / "a", source / "c")
    chain.run("full")
    (source / "copy").write_bytes((source / "m").read_bytes())
    chain.write({"z": "changed"})
    chain.run(exclude=["/a"])
    del chain.states[2][b"a"]
    refer(chain, "copy", "m")
    chain.check()
    verified(chain.consolidated(), chain.password)
    chain.check()
    with chain.job.history() as history:
        (snapshot,) = history.snapshots("docs")
        versions = {one.path: one for one in history.versions(snapshot)}
    assert versions[b"docs/b"].kind == "f"
    assert versions[b"docs/b"].size == 3000
    assert versions[b"docs/copy"].member is None
