"""Verifying: every kind of damage is found and named, and nothing is written."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import archives as forge
import encrypted
import pytest

from pybak.errors import Interrupted, NotFoundError, PyBakError, WrongPasswordError
from pybak.options import VerifyOptions
from pybak.problems import DAMAGED, UNREADABLE, read_problems
from pybak.staging import WorkFolder
from pybak.verify.check import plan_verify, verify_batch
from pybak.verify.run import VerifyRun
from tasks.check import check as check_task

BIG = bytes(range(256)) * 4096 * 2
MEMBERS = [
    forge.folder(b"d"),
    forge.file(b"d/stored", b"stored" * 50),
    forge.file(b"d/deflated", b"deflated" * 50, 0o755, deflate=True),
    forge.file(b"d/big", BIG, deflate=True),
    forge.link(b"d/link", b"stored"),
    forge.file(b"\xff raw", b"x", mtime_ns=-(10**18)),
]


def check(
    archive: bytes, tasks: int = 3, password: bytes | None = None
) -> tuple[int, dict[str, str]]:
    """Verify and give the members counted, and the code of each damaged one."""
    with tempfile.TemporaryDirectory() as work:
        plan = plan_verify([archive], work_dir=Path(work), tasks=tasks, password=password)
        parts = [verify_batch(batch, password=password) for batch in plan.batches]
        problems = list(plan.problems)
        for part in parts:
            problems += read_problems(part.problems_file)
        assert sum(part.members for part in parts) + plan.damaged >= plan.members
        return plan.members, {problem.path: problem.code for problem in problems}


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_sound_archive_is_sound(tmp_path: Path, with_manifest: bool) -> None:
    archive = forge.write(tmp_path / "a.zip", MEMBERS, with_manifest=with_manifest)
    assert check(archive) == (6, {})
    assert check(forge.write(tmp_path / "a.zip", [], with_manifest=with_manifest)) == (0, {})


@pytest.mark.parametrize(
    "bad",
    [
        forge.file(b"bad", b"x" * 99, crc=5),
        forge.file(b"bad", BIG, crc=5, deflate=True),
        forge.file(b"bad", b"x" * 99, sha256="0" * 64),
        forge.file(b"bad", BIG, sha256="0" * 64, deflate=True),
        forge.file(b"bad", b"x" * 99, local_name=b"dab"),
        forge.file(b"bad", b"x" * 99, method=8),
        forge.link(b"bad", b"target", crc=5),
        forge.file(b"bad", b"x", is_listed=False),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, bad: forge.Forged) -> None:
    """By member, with the others counted as sound (case 59)."""
    archive = forge.write(tmp_path / "a.zip", [*MEMBERS, bad], with_manifest=True)
    assert check(archive) == (7, {"bad": DAMAGED})


@pytest.mark.parametrize(
    "other",
    [
        {"mode": stat.S_IFREG | 0o600},
        {"mtime_ns": forge.NOON + 10**9},
        {"data": b"other content"},
        {"mode": stat.S_IFLNK | 0o777},
    ],
)
def test_a_directory_that_says_otherwise_than_the_manifest_is_damage(
    tmp_path: Path, other: dict
) -> None:
    """A member swapped for another is seen (case 64)."""
    right = forge.file(b"f", b"the content", 0o644)
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", forge.manifest_bytes([right]))
    archive = forge.write(tmp_path / "a.zip", [replace(right, **other), manifest])
    assert check(archive) == (1, {"f": DAMAGED})


def test_members_that_are_missing_or_there_twice_are_damage(tmp_path: Path) -> None:
    lost, kept, twice = (forge.file(name, b"x") for name in (b"lost", b"kept", b"twice"))
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", forge.manifest_bytes([lost, kept, twice]))
    archive = forge.write(tmp_path / "a.zip", [kept, twice, twice, manifest])
    assert check(archive)[1] == {"lost": DAMAGED, "twice": DAMAGED}


def test_overlapping_members_are_damage(tmp_path: Path) -> None:
    members = [
        forge.file(b"one", b"x" * 100),
        forge.file(b"two", b"x" * 100, offset=0, with_local=False),
    ]
    archive = forge.write(tmp_path / "a.zip", members)
    assert check(archive) == (2, {"one": DAMAGED, "two": DAMAGED})


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish",
        b"",
        forge.manifest_bytes(MEMBERS)[:-9],
        forge.manifest_bytes(MEMBERS, count=2),
        forge.manifest_bytes([*MEMBERS, MEMBERS[1]]),
        forge.manifest.pack_lines("[" * 100_000 + "\n"),
        forge.manifest.pack_lines('{"pybak_manifest":1}\n' + "x" * (3 << 20) + "\n"),
        forge.manifest.pack_lines('{"pybak_manifest":1}\n{"path":"\\ud800"}\n{"members":1}\n'),
        forge.manifest.pack_lines('{"pybak_manifest":1}\n' + '{"path":"a"}\n' * 9000),
        forge.manifest.pack_lines('{"pybak_manifest":9}\n'),
    ],
)
def test_a_damaged_manifest_is_damage(tmp_path: Path, data: bytes) -> None:
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", data)
    archive = forge.write(tmp_path / "a.zip", [*MEMBERS, manifest])
    members, bad = check(archive)
    assert members == 6
    assert bad == {".pybak/manifest.jsonl.gz": DAMAGED}


def test_an_encrypted_member_can_not_be_vouched_for(tmp_path: Path) -> None:
    """Without its password (case 63)."""
    path = tmp_path / "a.zip"
    secret = encrypted.Secret(b"secret", b"x" * 20)
    path.write_bytes(encrypted.build([secret, encrypted.Secret(b"open", b"x", password=None)]))
    assert check(os.fsencode(path))[1] == {"secret": UNREADABLE}
    # An empty file, which anyone can read, vouches for nothing.
    for more in ([], [encrypted.Secret(b"empty", b"", password=None)]):
        path.write_bytes(encrypted.build([secret, *more]))
        with pytest.raises(WrongPasswordError, match="is encrypted; give the password"):
            check(os.fsencode(path))
    with pytest.raises(WrongPasswordError):
        check(os.fsencode(path), password=b"wrong")
    assert check(os.fsencode(path), password=encrypted.PASSWORD) == (2, {})


def test_encryption_that_is_not_read_is_named(tmp_path: Path) -> None:
    secret = forge.file(b"secret", b"x" * 20, flags=1)
    assert check(forge.write(tmp_path / "a.zip", [secret]))[1] == {"secret": UNREADABLE}


def test_every_flipped_byte_of_a_members_data_is_found(tmp_path: Path) -> None:
    """And so is one in a name, a size or the directory (case 59)."""
    members = [MEMBERS[1], MEMBERS[2], MEMBERS[4]]
    whole = forge.build(members, with_manifest=True)
    path = tmp_path / "a.zip"
    unseen = []
    for at in range(0, len(whole), 3):
        data = bytearray(whole)
        data[at] ^= 0x21
        path.write_bytes(data)
        try:
            bad = check(os.fsencode(path), tasks=1)[1]
        except PyBakError:
            continue
        if not bad:
            unseen.append(at)
    # Not seen: versions, DOS times, meaningless flags and attributes, extra fields of local
    # headers. All of it is told again elsewhere, and none of it is content.
    heads = len(whole) - sum(len(member.data) for member in members)
    assert len(unseen) < heads * 0.45 / 3
    starts = whole.index(b"storedstored")
    assert not set(range(starts, starts + len(MEMBERS[1].data))) & set(unseen)


def test_verifying_writes_nothing_beside_the_archive(tmp_path: Path) -> None:
    archive = forge.write(tmp_path / "a.zip", MEMBERS, with_manifest=True)
    check(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        check(os.fsencode(tmp_path / "none.zip"))


def test_a_request_to_stop_is_heard(tmp_path: Path) -> None:
    archive = forge.write(tmp_path / "a.zip", MEMBERS)
    plan = plan_verify([archive], work_dir=tmp_path, tasks=1)
    checked = verify_batch(plan.batches[0], should_stop=lambda: True)
    assert (checked.stopped, checked.members) == (True, 0)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_a_request_to_stop_counts_for_archives_not_yet_planned(
    tmp_path: Path, scratch: Path
) -> None:
    """And a check that was stopped gives no verdict (case 95)."""
    archive = tmp_path / "a.zip"
    forge.write(archive, MEMBERS)
    with VerifyRun(VerifyOptions()) as run:
        run.request_cancel()
        plan = run.plan(archive, 0)
        checked = check_task.fn(run.staging, run.work_folder(0), "0", plan.batches[0], None)
        assert checked.stopped
        with pytest.raises(Interrupted):
            run.check(archive, 0, plan, [checked])
    assert list(scratch.iterdir()) == []


def test_what_a_killed_run_left_is_removed(scratch: Path) -> None:
    dead, alive = (WorkFolder.create(scratch, name) for name in ("dead", "alive"))
    os.close(dead._lock_fd)
    with VerifyRun(VerifyOptions()) as run:
        assert set(scratch.iterdir()) == {alive.path, run.staging}
    assert list(scratch.iterdir()) == [alive.path]
    alive.remove()


def test_a_batch_read_twice_keeps_its_lists_of_problems_apart(tmp_path: Path) -> None:
    archive = forge.write(tmp_path / "a.zip", MEMBERS)
    plan = plan_verify([archive], work_dir=tmp_path, tasks=1)
    first, second = (verify_batch(plan.batches[0]) for _ in range(2))
    assert first.problems_file != second.problems_file


def test_the_plan_reads_well(tmp_path: Path) -> None:
    archive = forge.write(tmp_path / "a.zip", MEMBERS, with_manifest=True)
    summary = plan_verify([archive], work_dir=tmp_path, tasks=2).summary()
    assert "6 members" in summary.replace("\u00a0", " ")
    assert "with SHA-256" in summary
