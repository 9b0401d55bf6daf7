"""Encrypted, wrapped and split archives consolidated: as they were, with the same password."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import pyzipper
from backing_up import cut_files_at, judge, noise, prose, run_tool, unwrapped
from consolidating import MANIFEST, Chain, Tar, four_runs, plain_bytes, raw, verified

from pybak.backup import chain_password
from pybak.options import PruneOptions
from pybak.problems import DAMAGED, UNSUPPORTED, WRONG_PASSWORD
from pybak.retention.run import PruneRun

PASSWORD = b"correct horse"
SPLIT = 64 << 10


def salts(path: Path) -> list[bytes]:
    return [data[:16] for data in raw(path).values() if data]


@pytest.mark.needs_tool("7zz", "bsdtar")
def test_encrypted_members_are_copied_with_their_salts(tmp_path: Path) -> None:
    chain = four_runs(tmp_path, password=PASSWORD)
    before: dict[str, bytes] = {}
    for path in chain.volumes:
        before |= raw(path)
    archive = chain.consolidated()
    after = raw(archive)
    assert after.keys() == before.keys() - {"docs/d/c", "docs/n"}
    assert all(before[name] == data for name, data in after.items())
    assert len(set(salts(archive))) == len(salts(archive)) == 6
    assert "Everything is Ok" in run_tool("7zz", "t", f"-p{PASSWORD.decode()}", archive)
    with pyzipper.AESZipFile(archive) as opened:
        opened.setpassword(PASSWORD)
        assert opened.testzip() is None
        assert all(info.flag_bits & 1 or info.is_dir() for info in opened.infolist())
        assert opened.read("docs/b") == b"4" * 9000
        assert opened.infolist()[-1].filename == MANIFEST
    assert b"run_id" not in archive.read_bytes()
    verified(archive, PASSWORD)
    chain.check()
    with chain.job.history() as history:
        (facts,) = history.archives_of_job("docs")
    assert facts.encrypted
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held


def test_a_large_encrypted_member_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_files_at(monkeypatch, 4 << 20)
    chain = Chain(tmp_path, password=PASSWORD)
    chain.write({"large": noise(9 << 20) + bytes(4 << 20), "small": "1"})
    chain.run("full")
    chain.write({"small": "2"})
    chain.run()
    verified(chain.consolidated(), PASSWORD)
    chain.check()


SHAPES: dict[str, dict[str, Any]] = {
    "wrapped": {"format": "tar.zst"},
    "hidden": {"format": "zip", "hide_names": True},
    "wrapped volumes": {"format": "tar.gz", "split": "64KiB", "checksum": ["sha256"]},
    "hidden volumes": {"format": "zip", "hide_names": True, "split": "64KiB"},
    "encrypted volumes": {"format": "zip", "split": "64KiB"},
}


def _shaped(place: Path, **options: Any) -> Chain:
    """Make a chain whose archives take several volumes."""
    chain = Chain(place, password=PASSWORD, **options)
    chain.write({name: noise(50_000, number) for number, name in enumerate("abcdefg")})
    chain.run("full")
    chain.write({"b": noise(90_000, 20), "n": prose(5000)})
    (chain.source / "c").unlink()
    chain.run()
    chain.write({"n": "3"})
    chain.run()
    return chain


@pytest.mark.needs_tool("7zz")
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_wrapped_and_split_as_the_newest_was(tmp_path: Path, shape: str) -> None:
    options = SHAPES[shape]
    chain = _shaped(tmp_path, **options)
    archive = chain.consolidated()
    volumes = chain.volumes
    split = "split" in options
    wrapped = "hidden" in shape or options["format"] != "zip"
    assert len(volumes) == (6 if split else 1)
    if split:
        sizes = [path.stat().st_size for path in volumes]
        assert max(sizes) <= SPLIT
        assert min(sizes[:-1]) > SPLIT - 64
        assert all(path.name.startswith(archive.name) for path in volumes)
    if wrapped:
        for path in volumes:
            assert path.suffix == ".zip"
            assert unwrapped(path, PASSWORD)[0] == path.name.removesuffix(".zip")
            assert "Everything is Ok" in run_tool("7zz", "t", f"-p{PASSWORD.decode()}", path)
            assert b"docs/" not in path.read_bytes()
    plain = tmp_path / f"plain.{options['format']}"
    plain.write_bytes(plain_bytes(volumes, PASSWORD if wrapped else None))
    if wrapped:
        judge(plain)
        if options["format"] == "zip":
            with zipfile.ZipFile(plain) as opened:
                names = opened.namelist()
        else:
            names = [*Tar(plain.read_bytes(), options["format"]).names, MANIFEST]
    else:
        assert "Everything is Ok" in run_tool("7zz", "t", f"-p{PASSWORD.decode()}", plain)
        with pyzipper.AESZipFile(plain) as opened:
            names = opened.namelist()
    assert {name for name in names if not name.endswith("/")} - {"docs", MANIFEST} == {
        f"docs/{name}" for name in "abdefgn"
    }
    verified(volumes[0], PASSWORD)
    chain.check()
    if "checksum" in options:
        (sums,) = chain.job.store.glob("*.sha256")
        lines = [f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}" for one in volumes]
        assert sums.read_text().splitlines() == lines
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held
    chain.write({"after": "4"})
    chain.run()
    chain.check()


@pytest.mark.parametrize("shape", ["members", "wrapped"])
@pytest.mark.parametrize("password", [None, b"wrong"])
def test_without_the_password_the_rest_is_done(
    tmp_path: Path, shape: str, password: bytes | None
) -> None:
    chain = Chain(tmp_path, password=PASSWORD, format="zip" if shape == "members" else "tar.gz")
    for number in range(4):
        chain.write({"a": str(number), f"b{number}": "x"})
        if number == 2:
            (chain.source / "b1").unlink()
        if number == 3:
            chain.write({"b2": "y"})
        chain.run("full" if not number else "incremental")
    options = PruneOptions(keep_last=1, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url, password=password) as run:
        shown = run.rehearse(["docs"])
    report = chain.job.prune(password=password, keep_last=1, consolidate=True)
    (done,) = report.jobs
    assert (report.exit_code, shown.exit_code) == (3, 3)
    assert done.consolidated is None
    (problem,) = done.errors
    assert problem.code == WRONG_PASSWORD
    what = "is encrypted" if password is None else "wrong password"
    assert what in problem.message
    assert "its chain was left as it is" in problem.message
    assert shown.jobs[0].errors == done.errors
    assert shown.jobs[0].bytes_freed == done.bytes_freed > 0
    assert len(done.deleted) == 2
    chain.check()
    chain.consolidated()


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_archives_of_different_passwords_are_refused(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_password, "goes_on", lambda chosen, *_given, **_more: chosen)
    chain = Chain(tmp_path, password=b"another", format=form)
    chain.write({"a": "1", "b": "1"})
    chain.run("full")
    chain.password = PASSWORD
    chain.write({"b": "2"})
    chain.run()
    before = chain.job.archives
    done = chain.prune(keep_last=1)
    assert (done.status, done.consolidated) == ("partial", None)
    (problem,) = done.errors
    assert problem.code == WRONG_PASSWORD
    assert problem.path == str(before[0])
    assert "has another password than" in problem.message
    assert chain.job.archives == before


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({}, {"format": "tar.gz"}, "is zip, and"),
        ({"format": "tar.gz"}, {"format": "tar.zst"}, "is tar.gz, and"),
        ({"password": PASSWORD}, {}, "which would lay it open"),
        ({}, {"password": PASSWORD}, "is encrypted in another way than"),
        ({"password": PASSWORD}, {"password": PASSWORD, "hide_names": True}, "in another way"),
    ],
)
def test_archives_of_different_kinds_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, Any],
    second: dict[str, Any],
    what: str,
) -> None:
    monkeypatch.setattr(chain_password, "goes_on", lambda chosen, *_given, **_more: chosen)
    chain = Chain(tmp_path)
    chain.write({"a": "1", "b": "1"})
    for how in (first, second):
        chain.password = how.pop("password", None)
        chain.options = how
        chain.write({"b": str(len(chain.states))})
        chain.run()
    before = chain.job.archives
    (done,) = chain.job.prune(password=PASSWORD, keep_last=1, consolidate=True).jobs
    assert (done.status, done.consolidated) == ("partial", None)
    (problem,) = done.errors
    assert problem.code == UNSUPPORTED
    assert what in problem.message
    assert "a full backup cuts the chain as well" in problem.message
    assert chain.job.archives == before


def test_what_was_plain_may_become_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_password, "goes_on", lambda chosen, *_given, **_more: chosen)
    chain = Chain(tmp_path, format="tar.zst")
    chain.write({"a": "1", "b": "1"})
    chain.run("full")
    chain.password = PASSWORD
    chain.write({"b": "2"})
    chain.run()
    archive = chain.consolidated()
    assert archive.name.endswith(".tar.zst.zip")
    verified(archive, PASSWORD)
    chain.check()


def test_a_wrapper_that_was_tampered_with_is_not_read(tmp_path: Path) -> None:
    chain = _shaped(tmp_path, format="tar")
    first = chain.volumes[0]
    data = bytearray(first.read_bytes())
    data[200_000] ^= 1
    first.write_bytes(data)
    before = chain.job.archives
    done = chain.prune(keep_last=1)
    assert (done.status, done.consolidated) == ("partial", None)
    (problem,) = done.errors
    assert problem.code == DAMAGED
    assert "tampered" in problem.message
    assert chain.job.archives == before


def test_new_archives_are_private(tmp_path: Path) -> None:
    chain = _shaped(tmp_path, format="tar.gz", split="64KiB")
    chain.consolidated()
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in chain.volumes} == {0o600}
