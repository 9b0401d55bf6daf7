"""Encrypted archives in the hands of other programs: with the password all, without it nothing."""

from __future__ import annotations

import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import pyzipper
from backing_up import (
    FORMATS,
    MANIFEST,
    PASSWORD,
    TARS,
    Outcome,
    back_up,
    judge_outcome,
    noise,
    prose,
    run_tool,
    shrink,
    snapshot,
    unwrapped,
)
from commands import tool
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak.errors import PlanError

pytestmark = pytest.mark.needs_tool("7zz", "bsdtar")
WRONG = "not the password"
SECRET = "sekret-name"
AES = FORMATS["aes"]
WRAPPED: dict[str, dict[str, Any]] = {
    "zip": {"hide_names": True, "password": PASSWORD},
    **{kind: {"format": kind, "password": PASSWORD} for kind in TARS},
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, part=120_000)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    for name, data in {
        "empty": b"", "one": b"1", "sixteen": b"x" * 16, "text": prose(100_000),
        "noise": noise(100_000), f"sub/{SECRET}": b"their content", "large": prose(400_000),
        "large noise": noise(300_000), "sub/\N{SNOWMAN}": b"snow",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    (folder / "text").chmod(0o640)
    return folder


def members(path: Path) -> list[tuple[str, bytes, zipfile.ZipInfo]]:
    """Give name, stored bytes and record of every member that has content."""
    data = path.read_bytes()
    found = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size:
                name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
                start = info.header_offset + 30 + name + extra
                found.append((info.filename, data[start : start + info.compress_size], info))
    return found


@pytest.mark.parametrize("level", [1, 6])
def test_a_zip_is_opened_with_the_password(src: Path, tmp_path: Path, level: int) -> None:
    """By 7-Zip, bsdtar and pyzipper; modes come back too."""
    done = back_up(src, to=tmp_path / "out", level=level, **AES)
    judge_outcome(done)
    assert done.contents == {
        "src/": b"", "src/sub/": b"",
        **{f"src/{p.relative_to(src)}": p.read_bytes() for p in src.rglob("*") if p.is_file()},
    }  # fmt: skip
    wanted = {path: what for path, what in snapshot(src.parent).items() if path.startswith(b"src")}
    for program, words in {
        "7zz": ["x", f"-p{PASSWORD.decode()}", "-xr!.pybak", "-bso0", f"-o{tmp_path}/7zz"],
        "bsdtar": ["--passphrase", PASSWORD.decode(), "-xp", "--exclude", ".pybak", "-C",
                   f"{tmp_path}/bsdtar", "-f"],
    }.items():  # fmt: skip
        (tmp_path / program).mkdir()
        run_tool(program, *words, done.path)
        found = snapshot(tmp_path / program)
        if program == "7zz":  # it sets folders' modes by its own mind
            found = {path: one for path, one in found.items() if one[0] == "file"}
            assert found == {path: one for path, one in wanted.items() if one[0] == "file"}
        else:
            assert found == wanted
    assert done.report.encrypted


def test_every_member_with_content_is_encrypted_by_a_salt_of_its_own(
    src: Path, tmp_path: Path
) -> None:
    """AE-2 tells no checksums; what is in the members can't be found in the file."""
    done = back_up(src, to=tmp_path / "out", **AES)
    found = members(done.path)
    assert [name for name, _, _ in found][-1] == MANIFEST
    assert len(found) == 9
    salts = {data[:16] for _, data, _ in found}
    assert len(salts) == len(found)
    for name, data, info in found:
        assert info.flag_bits & 1, name
        assert info.CRC == 0, name
        assert info.compress_type == 99, name
        assert len(data) >= 28
    whole = done.path.read_bytes()
    for content in (b"their content", prose(100_000)[:60], noise(300_000)[1000:1040], b"sha256"):
        assert content not in whole
    again = back_up(src, to=tmp_path / "out", **AES)
    assert salts.isdisjoint(data[:16] for _, data, _ in members(again.path))


@pytest.mark.parametrize("way", WRAPPED)
def test_a_wrapped_archive_shows_no_names(src: Path, tmp_path: Path, way: str) -> None:
    """One encrypted member, named like the archive; inside is what any program opens."""
    done = back_up(src, to=tmp_path / "out", **WRAPPED[way])
    (path,) = done.files
    assert path.name == f"{done.path.name}.zip"
    assert done.report.archive == str(path)
    data = path.read_bytes()
    for name in (SECRET, "manifest.jsonl", "large noise"):
        assert name.encode() not in data
    ((name, _, info),) = members(path)
    assert name == done.path.name
    assert (info.compress_type, info.CRC, info.flag_bits & 1) == (99, 0, 1)
    judge_outcome(done)
    assert done.contents[f"src/sub/{SECRET}"] == b"their content"
    assert "Everything is Ok" in run_tool("7zz", "t", f"-p{PASSWORD.decode()}", path)
    unpacked = subprocess.run(
        [tool("bsdtar"), "--passphrase", PASSWORD, "-xOf", path], capture_output=True, check=True
    )
    assert unpacked.stdout == unwrapped(path, PASSWORD)[1]
    again = back_up(src, to=tmp_path / "again", **WRAPPED[way])
    ((_, second, _),), ((_, first, _),) = members(again.files[0]), members(path)
    assert first[:16] != second[:16]


@pytest.mark.parametrize(
    "way", [AES, WRAPPED["zip"], WRAPPED["tar.zst"]], ids=["aes", "zip", "zst"]
)
def test_with_a_wrong_password_nothing_opens(
    src: Path, tmp_path: Path, way: dict[str, Any]
) -> None:
    """(case 63)"""
    done = back_up(src, to=tmp_path / "out", **way)
    (path,) = done.files
    assert "Wrong password" in run_tool("7zz", "t", f"-p{WRONG}", path, allow=(2,))
    run_tool("bsdtar", "--passphrase", WRONG, "-xOf", path, allow=(1,))
    with pyzipper.AESZipFile(path) as archive:
        archive.setpassword(WRONG.encode())
        for info in archive.infolist():
            if info.file_size:
                with pytest.raises(RuntimeError, match="Bad password"):
                    archive.read(info)


def test_hidden_names_need_a_password(src: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--hide-names: needs a password"):
        back_up(src, to=tmp_path / "out", hide_names=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("password", ["p", "p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss", "x" * 99])
def test_passwords_of_any_kind_are_the_same_for_all(
    src: Path, tmp_path: Path, password: str
) -> None:
    done = back_up(src, to=tmp_path / "out", password=password.encode())
    judge_outcome(done)


def test_links_are_encrypted_as_well(tmp_path: Path) -> None:
    """7-Zip brings them back; bsdtar says that it can't and goes on."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "link").symlink_to("target-of-the-link")
    (src / "target").write_bytes(b"t")
    done = back_up(src, to=tmp_path / "out", **AES)
    judge_outcome(done)
    assert b"target-of-the-link" not in done.path.read_bytes()
    run_tool("7zz", "x", f"-p{PASSWORD.decode()}", "-snld", "-bso0", f"-o{tmp_path}/u", done.path)
    assert (tmp_path / "u/src/link").readlink() == Path("target-of-the-link")


CONTENTS = st.builds(
    lambda size, seed, packs: (prose if packs else noise)(size, seed),
    st.sampled_from([0, 1, 15, 16, 17, 2047, 2048, 2049, 4999, 5000, 5001, 9_999, 10_000, 10_001,
                     20_000, 30_001]) | st.integers(0, 12_000),
    st.integers(0, 5),
    st.booleans(),
)  # fmt: skip
NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\"),
    min_size=1, max_size=40,
).filter(lambda name: name.strip(". ") and len(name.encode()) < 250)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    files=st.dictionaries(NAMES, CONTENTS, min_size=1, max_size=6),
    password=st.none() | st.just(PASSWORD), level=st.sampled_from([1, 3, 6]),
)  # fmt: skip
def test_zip_members_of_any_name_and_size_are_read_back_by_others(
    files: dict[str, bytes], password: bytes | None, level: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """At the borders of blocks, pieces and parts, encrypted or not."""
    folder = tmp_path_factory.mktemp("round")
    (folder / "src").mkdir()
    for name, data in files.items():
        (folder / "src" / name).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, part=10_000, whole=5_000, piece=2_048)
        done: Outcome = back_up(
            folder / "src", to=folder / "out", password=password, level=level, chunk_size=2
        )
    judge_outcome(done, ["unzip", "7zz"])
    assert done.contents == {"src/": b"", **{f"src/{name}": data for name, data in files.items()}}
    assert done.errors == {}
