"""`pybak list` and `pybak find` on archives of all kinds, most of them made by others."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from looking import look, parsed

from pybak.catalog.runs import Catalog
from pybak.cli.program import COMMANDS
from pybak.home import catalog_url

REPOSITORY = Path(__file__).parents[2]
MTIME = 1_700_000_000  # 2023-11-14 22:13:20 UTC


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PYBAK_") and name != "PYBAK_HOME":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def make_zip(path: str, **files: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files or {"docs/a.txt": b"a" * 1000, "docs/b.bin": b"b"}).items():
            info = zipfile.ZipInfo(name, time.gmtime(MTIME)[:6])
            info.external_attr = 0o100640 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def tar_member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mtime = MTIME
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make_tar(path: str, mode: str = "w", *more: tarfile.TarInfo) -> str:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tar_member("docs", type=tarfile.DIRTYPE, mode=0o755))
        info = tar_member("docs/a.txt", size=1000, mode=0o640)
        archive.addfile(info, io.BytesIO(b"a" * 1000))
        archive.addfile(tar_member("docs/link", type=tarfile.SYMTYPE, linkname="../x y"))
        archive.addfile(tar_member("docs/same", type=tarfile.LNKTYPE, linkname="docs/a.txt"))
        for info in more:
            archive.addfile(info)
    return path


# ---- list


def test_a_zip_is_listed_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    make_zip("x.zip")
    code, out, err = look(capsys, "list", "x.zip")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["Mode", "Size", "Modified", "Ratio", "Name"]
    assert lines[1].startswith("-rw-r-----  1.00 kB  2023-11-1")
    assert lines[1].endswith("  docs/a.txt")
    assert lines[2].split()[-2:] == ["0.33", "docs/b.bin"]
    assert lines[3].startswith("2 members, 1.00 kB, archive ")
    assert len(lines) == 4


def test_dates_are_local_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    make_tar("x.tar")
    _, out, _ = look(capsys, "list", "x.tar")
    assert "2023-11-15 07:13" in out


def test_a_tar_shows_what_links_lead_to(capsys: pytest.CaptureFixture[str]) -> None:
    make_tar(
        "x.tar", "w", tar_member("dev", type=tarfile.CHRTYPE, devmajor=5, devminor=1),
        tar_member("pipe", type=tarfile.FIFOTYPE),
    )  # fmt: skip
    code, out, _ = look(capsys, "list", "x.tar")
    assert code == 0
    rows = {line.split("  ")[-1]: line for line in out.splitlines()}
    assert rows["docs/"].startswith("drwxr-xr-x")
    assert rows["docs/link -> ../x y"].startswith("l")
    assert rows["docs/same -> docs/a.txt"].startswith("h")
    assert rows["dev"].split()[1:3] == ["5,", "1"]
    assert rows["pipe"].startswith("p")


@pytest.mark.parametrize(
    ("name", "mode", "format_"),
    [("x.tar.gz", "w:gz", "tar.gz"), ("x.tbz", "w:bz2", "tar.bz2"), ("noname", "w", "tar")],
)
def test_every_format_is_known_by_its_content(
    capsys: pytest.CaptureFixture[str], name: str, mode: str, format_: str
) -> None:
    make_tar(name, mode)
    shown = parsed(capsys, "list", name)
    assert (shown["format"], shown["encrypted"]) == (format_, False)
    assert [member["path"] for member in shown["members"]] == [
        "docs", "docs/a.txt", "docs/link", "docs/same",
    ]  # fmt: skip


def test_the_json_is_one_object_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    make_tar("x.tar")
    shown = parsed(capsys, "list", "x.tar")
    assert set(shown) == {
        "archive", "format", "encrypted", "members", "total", "status", "errors",
    }  # fmt: skip
    assert shown["members"][1] == {
        "path": "docs/a.txt", "type": "file", "size": 1000, "stored_size": 1000,
        "mtime": "2023-11-14T22:13:20Z", "mode": "0640", "sha256": None, "link": None,
    }  # fmt: skip
    assert [member["type"] for member in shown["members"]] == [
        "folder", "file", "symlink", "hardlink",
    ]  # fmt: skip
    assert shown["members"][2]["link"] == "../x y"
    size = os.path.getsize("x.tar")
    assert shown["total"] == {
        "members": 4, "size": 1000, "stored_size": size, "ratio": round(1000 / size, 3),
    }  # fmt: skip
    assert (shown["status"], shown["errors"]) == ("success", [])


def test_only_what_matches_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Patterns are those of a restore (case 89)."""
    make_zip("x.zip", **{"docs/a.txt": b"1", "docs/b.bin": b"22", "c.txt": b"333"})
    shown = parsed(capsys, "list", "x.zip", "*.txt")
    assert [member["path"] for member in shown["members"]] == ["docs/a.txt", "c.txt"]
    assert shown["total"]["size"] == 4
    shown = parsed(capsys, "list", "x.zip", "/docs/", "c.*")
    assert len(shown["members"]) == 3


def test_a_pattern_that_matches_nothing_gives_3(capsys: pytest.CaptureFixture[str]) -> None:
    make_zip("x.zip")
    code, out, err = look(capsys, "list", "x.zip", "a.txt", "b.tx")
    assert code == 3
    assert "docs/a.txt" in out
    assert err == "pybak: b.tx: matches no member; to find a part of a name, write '*b.tx*'\n"


def test_names_move_no_cursor_and_survive_json(capsys: pytest.CaptureFixture[str]) -> None:
    """(cases 3 and 7)"""
    name, target = "od\x1b[2Jd\n\udcff", "t\x07\udcfe"
    link = tar_member(name, type=tarfile.SYMTYPE, linkname=target)
    with tarfile.open("x.tar", "w", errors="surrogateescape", format=tarfile.GNU_FORMAT) as made:
        made.addfile(link)
    _, out, _ = look(capsys, "list", "x.tar")
    assert r'"od\x1b[2Jd\n\xff" -> "t\x07\xfe"' in out
    assert out.count("\n") == 3
    (member,) = parsed(capsys, "list", "x.tar")["members"]
    assert (member["path"], member["link"]) == (name, target)


@pytest.mark.parametrize("seconds", [-1, -(10**10), 2**33, 2**62 // 10**9 * 10**9 // 10**9])
def test_times_of_all_ages_are_shown(capsys: pytest.CaptureFixture[str], seconds: int) -> None:
    """(case 20)"""
    make_tar("x.tar", "w", tar_member("old", mtime=seconds))
    code, out, _ = look(capsys, "list", "x.tar", "old")
    assert code == 0
    year = time.localtime(seconds).tm_year
    assert f" {year:04d}-" in out
    (member,) = parsed(capsys, "list", "x.tar", "old")["members"]
    assert member["mtime"].startswith(f"{time.gmtime(seconds).tm_year:04d}-")


def test_what_is_damaged_is_told_and_the_rest_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """(case 60)"""
    make_tar("x.tar")
    data = Path("x.tar").read_bytes()
    Path("cut.tar").write_bytes(data[: 512 * 3 + 200])
    code, out, err = look(capsys, "list", "cut.tar")
    assert code == 1
    assert "docs/" in out
    assert err.startswith("pybak: ")
    code, out, _ = look(capsys, "list", "cut.tar", "--json")
    assert code == 1
    shown = json.loads(out)
    assert shown["status"] == "damaged"
    assert shown["errors"][0]["code"] == "damaged"
    assert [member["path"] for member in shown["members"]][:1] == ["docs"]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["list"], 2, "no ARCHIVE; name an archive, a run id or latest"),
        (["list", "none.zip"], 10, None),
        (["list", "empty.zip"], 1, None),
        (["list", "x.zip", "--level", "3"], 2, "no option --level; see pybak list --help"),
        (["list", "x.zip", "--passwort"], 2, "no option --passwort; did you mean --password?"),
        (["find"], 2, "no PATTERN; say what to find, such as '*.txt'"),
        (["find", "!x", "x.zip"], 2,
         "'!x' finds nothing by itself; begin it with another sign"),
        (["find", "x.zip", "*.txt"], 10, None),
        (["lits"], 2, "no command lits; did you mean list?"),
        (["frobnicate"], 2,
         f"no command frobnicate; known are {', '.join(COMMANDS)}"),
        (["--frobnicate"], 2, "no option --frobnicate; see pybak --help"),
    ],
)  # fmt: skip
def test_what_is_wrong_gets_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str | None
) -> None:
    make_zip("x.zip")
    Path("empty.zip").touch()
    done, out, err = look(capsys, *words)
    assert (done, out) == (code, "")
    assert err.count("\n") == 1
    assert line is None or err == f"pybak: {line}\n"


def test_a_failure_is_one_json_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = look(capsys, "list", "none.zip", "--json")
    assert code == 10
    shown = json.loads(out)
    assert shown["status"] == "failed"
    assert err == f"pybak: {shown['errors'][0]['message']}\n"
    assert set(shown) == {"status", "errors"}


def test_quiet_tells_by_the_exit_code_only(capsys: pytest.CaptureFixture[str]) -> None:
    make_zip("x.zip")
    assert look(capsys, "find", "a.txt", "x.zip", "--quiet") == (0, "", "")
    assert look(capsys, "list", "x.zip", "--quiet") == (0, "", "")


def test_help_and_version_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    from pybak import __version__

    assert look(capsys, "--version") == (0, f"pybak {__version__}\n", "")
    for words in ([], ["--help"], ["list", "--help"], ["find", "-h"]):
        code, out, err = look(capsys, *words)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: pybak ")
        assert max(map(len, out.splitlines())) <= 80


# ---- encrypted


def aes_zip(path: str) -> str:
    pyzipper = pytest.importorskip("pyzipper")
    with pyzipper.AESZipFile(path, "w", encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(b"the right one")
        archive.writestr("docs/a.txt", b"a" * 1000)
    return path


@pytest.mark.parametrize("command", ["list", "find"])
def test_an_encrypted_archive_wants_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """(case 63)"""
    aes_zip("x.zip")
    words = ["list", "x.zip"] if command == "list" else ["find", "a.txt", "x.zip"]
    code, out, err = look(capsys, *words)
    assert (code, out) == (12, "") if command == "list" else code == 12
    assert "-p" in err
    assert "PYBAK_PASSWORD" in err
    code, _, err = look(capsys, *words, "-p", "a wrong one")
    assert code == 12
    assert "wrong" not in err.replace("wrong password", "")
    code, out, err = look(capsys, *words, "-p", "the right one")
    assert (code, err) == (0, "")
    assert "docs/a.txt" in out
    monkeypatch.setenv("PYBAK_PASSWORD", "the right one")
    assert look(capsys, *words)[0] == 0
    assert parsed(capsys, "list", "x.zip")["encrypted"] is True


class _Point:
    @staticmethod
    def load() -> Any:
        return {"key": b"the right one"}.__getitem__


def test_a_block_gives_the_password_through_an_entry_point(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    asked: list[str] = []

    def entry_points(*, group: str) -> list[Any]:
        asked.append(group)
        return [_Point]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    aes_zip("x.zip")
    assert look(capsys, "list", "x.zip", "--password-block", "key")[0] == 0
    assert asked == ["pybak.passwords"]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [])
    code, _, err = look(capsys, "list", "x.zip", "--password-block", "key")
    assert code == 2
    assert "use -p instead" in err


# ---- find


def record(job: str, archive: Path | None, day: int) -> None:
    catalog = Catalog(catalog_url())
    run_id = f"{job}-{day}"
    at = datetime(2026, 11, day, tzinfo=UTC)
    catalog.begin_run(run_id, kind="backup", job=job, options={}, now=at)
    catalog.finish_run(
        run_id, status="success", counts={}, now=at, archive=str(archive) if archive else None
    )
    catalog.close()


def test_find_searches_the_archives_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    make_zip("x.zip")
    make_tar("y.tar")
    make_zip("z.zip", other=b"")
    code, out, err = look(capsys, "find", "a.*", "x.zip", "y.tar", "z.zip")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("x.zip:")
    assert lines[1].endswith("docs/a.txt")
    assert lines[3].endswith("y.tar:")
    assert lines[-1] == "2 matches in 2 of 3 archives"


def test_find_without_archives_searches_all_backups_newest_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for day, name in ((3, "old.zip"), (5, "new.zip"), (4, "gone.zip")):
        record("docs", tmp_path / name, day)
    record("other", tmp_path / "other.zip", 6)
    record("docs", None, 7)
    for name in ("old.zip", "new.zip", "other.zip"):
        make_zip(name)
    shown = parsed(capsys, "find", "a.txt")
    assert [os.path.basename(one["archive"]) for one in shown["archives"]] == [
        "other.zip", "new.zip", "old.zip",
    ]  # fmt: skip
    assert shown["total"] == {"members": 3, "archives": 3, "searched": 3}
    assert shown["archives"][0]["members"][0]["path"] == "docs/a.txt"
    shown = parsed(capsys, "find", "a.txt", "--job", "docs")
    assert shown["total"]["searched"] == 2


def test_find_of_nothing_gives_3(capsys: pytest.CaptureFixture[str]) -> None:
    make_zip("x.zip")
    code, out, err = look(capsys, "find", "nothing", "x.zip")
    assert (code, out) == (3, "")
    assert err == (
        "pybak: nothing: matches no member; to find a part of a name, write '*nothing*'\n"
    )


def test_find_without_any_backup_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = look(capsys, "find", "a.txt")
    assert code == 10
    assert "name archives to search" in err


def test_find_goes_on_after_an_archive_that_can_not_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.zip").write_bytes(b"PK\x03\x04 nothing")
    make_zip("x.zip")
    code, out, err = look(capsys, "find", "a.txt", "bad.zip", "x.zip")
    assert code == 1
    assert "docs/a.txt" in out
    assert "1 match in 1 of 2 archives" in out
    assert "bad.zip" in err
    code, out, _ = look(capsys, "find", "a.txt", "bad.zip", "x.zip", "--json")
    shown = json.loads(out)
    assert (code, shown["status"], len(shown["errors"])) == (1, "failed", 1)


def test_a_pattern_and_an_archive_the_wrong_way_round_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_zip("x.zip")
    code, _, err = look(capsys, "find", "x.zip", "*.txt")
    assert code == 10
    assert "the pattern comes first" in err


# ---- as a program


def program(*words: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "pybak", *words],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, **how,
    )  # fmt: skip


def test_it_runs_as_a_module_and_loads_no_prefect(tmp_path: Path) -> None:
    make_zip("x.zip")
    done = program("list", "x.zip")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"docs/a.txt" in done.stdout
    code = (
        "import sys\nfrom pybak.cli.program import pybak\npybak(['list', 'x.zip', '--quiet'])\n"
        "print([m for m in ('prefect', 'dask', 'distributed', 'sqlmodel') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout == b"[]\n"


def test_a_reader_that_leaves_early_is_no_trouble() -> None:
    make_zip("x.zip", **{f"docs/{n:06d}.txt": b"" for n in range(20_000)})
    shell = shutil.which("bash")
    assert shell
    done = subprocess.run(
        [shell, "-c", f"'{sys.executable}' -m pybak list x.zip | head -2"],
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["list", "x.zip"], ["find", "a.txt", "x.zip"]])
def test_an_output_that_is_full_is_told(words: list[str]) -> None:
    make_zip("x.zip")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pybak", *words], stdout=full, stderr=subprocess.PIPE,
            check=False, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"pybak: the output can't be written: No space left on device\n"


def test_a_refusal_for_size_names_the_option_that_allows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """(case 94)"""
    for archive in (make_zip("x.zip"), make_tar("x.tar")):
        for words in (("list", archive), ("find", "a.txt", archive)):
            code, _, err = look(capsys, *words, "--max-members", "1")
            assert code == 1
            assert "raise --max-members" in err
            assert look(capsys, *words, "--max-members", "4")[0] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-members", "0"), ("--max-members", "2.5"), ("--max-ratio", "nan"),
     ("--max-ratio", "inf"), ("--max-ratio", "much")],
)  # fmt: skip
def test_a_limit_must_be_a_number(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    code, _, err = look(capsys, "list", make_zip("x.zip"), option, value)
    assert code == 2
    assert err.startswith(f"pybak: {option}: ")


def test_nothing_is_said_of_matches_where_no_archive_was_opened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    aes_zip("x.zip")
    code, _, err = look(capsys, "find", "a.txt", "x.zip", "-p", "a wrong one")
    assert code == 12
    assert "matches no member" not in err
    code, out, _ = look(capsys, "find", "a.txt", "x.zip", "-p", "a wrong one", "--json")
    assert json.loads(out)["errors"][0]["code"] == "wrong_password"
