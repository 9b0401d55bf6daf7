"""`pybak snapshots`, `versions`, `diff`, `find` and `list` on what the catalog knows."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consolidating import Chain
from looking import look, parsed
from pruning import Shelf, names
from transferring import places_of, transfer
from written import MTIME, SECOND, WrittenJob, file, folder

from pybak.errors import PlanError
from pybak.formats.manifest import Part
from pybak.home import catalog_url
from pybak.patterns import exact_pattern
from pybak.restore.ask import ask
from pybak.restore.select import Selector


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PYBAK_") and name != "PYBAK_HOME":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[WrittenJob]:
    """Three runs: a full one, one with changes, and one where a file went."""
    made = WrittenJob(catalog_url(), place=tmp_path)
    full = made.run(
        folder("docs"), file("docs/a.txt", "one"), file("docs/b.txt", "bee"),
        file("docs/mode.txt", "m"), counts={"new": 3, "changed": 0, "gone": 0},
    )  # fmt: skip
    second = made.run(
        file("docs/a.txt", "longer", mtime_ns=MTIME + SECOND), file("docs/new.txt", "new"),
        file("docs/mode.txt", "m", mode=0o600), base=full, tags=["keep"],
        counts={"new": 1, "changed": 2, "gone": 0},
    )  # fmt: skip
    made.run(
        base=second, gone=["docs/b.txt"], status="partial",
        counts={"new": 0, "changed": 0, "gone": 1},
    )  # fmt: skip
    yield made
    made.close()


# ---- snapshots


def test_snapshots_are_listed_with_the_newest_last(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    code, out, err = look(capsys, "snapshots")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == [
        "Run", "Seq", "Time", "Mode", "Status", "New", "Changed", "Gone", "Size", "Job", "Tags",
        "Archive",
    ]  # fmt: skip
    assert lines[1].split()[:6] == ["docs0001", "1", "2026-11-20", "19:00:00", "full", "success"]
    assert lines[2].split()[4:] == [
        "incremental", "success", "1", "2", "0", "1.00", "kB", "docs", "keep",
        str(docs.place / "docs-2.zip"),
    ]  # fmt: skip
    assert "partial" in lines[3]
    assert lines[4] == "3 snapshots, 3.00 kB"


def test_snapshots_of_one_job_are_one_json_object(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    other = WrittenJob(docs.url, "/home/me, /srv")
    other.run(file("me/x"))
    shown = parsed(capsys, "snapshots", "--job", "docs")
    assert set(shown) == {"snapshots", "status", "errors"}
    assert [one["seq"] for one in shown["snapshots"]] == [1, 2, 3]
    assert shown["snapshots"][1] == {
        "run_id": docs.runs[1].run_id, "job": "docs", "seq": 2, "time": "2026-11-20T11:00:00Z",
        "finished": "2026-11-20T11:01:00Z", "mode": "incremental", "status": "success",
        "base_run": docs.runs[0].run_id, "full_run": docs.runs[0].run_id, "tags": ["keep"],
        "files": {"new": 1, "changed": 2, "gone": 0}, "archive": str(docs.place / "docs-2.zip"),
        "size": 1000, "encrypted": False,
    }  # fmt: skip
    # A job that was never named is called by its sources.
    assert len(parsed(capsys, "snapshots", "--job", "/home/me, /srv")["snapshots"]) == 1
    assert len(parsed(capsys, "snapshots")["snapshots"]) == 4


def test_an_unfinished_consolidation_changes_nothing_that_is_shown(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    words = [("snapshots",), ("find", "a.txt"), ("find", "b.txt")]
    before = [parsed(capsys, *one) for one in words]
    docs.consolidation(docs.runs[1], size=7000)
    assert [parsed(capsys, *one) for one in words] == before


def test_an_unknown_job_is_told_with_those_that_are_known(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    assert look(capsys, "snapshots", "--job", "dosc") == (
        10, "", "pybak: dosc: no backup of this job; known are docs\n",
    )  # fmt: skip


def test_jobs_to_choose_from_are_told_as_a_shell_takes_them(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    for name in ("/home/me, /srv", "my job", "bell\a", "-x", "it's"):
        WrittenJob(docs.url, name).run(file("me/x"))
    told = """-x, '/home/me, /srv', $'bell\\007', docs, 'it'"'"'s', 'my job'"""
    line = f"pybak: latest of which job? name one with --job: {told}"
    for words in (["list", "latest"], ["diff", "latest", "latest"], ["find", "x", "latest"]):
        assert look(capsys, *words) == (2, "", f"{line}\n"), words
    code, _, err = look(capsys, "logs", "latest")
    assert (code, err) == (2, f"{line}; without a RUN the newest is shown\n")
    with pytest.raises(PlanError) as caught:
        ask("latest", job=None, at=None, catalog_url=docs.url)
    assert f"pybak: {caught.value}" == line


COMMANDS = [
    ["snapshots"], ["versions", "a.txt"], ["diff", "docs0001", "docs0002"], ["find", "a.txt"],
    ["list", "latest"], ["list", "docs0001"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words))
def test_looking_makes_no_catalog(
    capsys: pytest.CaptureFixture[str], words: list[str], tmp_path: Path
) -> None:
    code, out, err = look(capsys, *words)
    assert (code, out) == (10, "")
    assert err.count("\n") == 1
    assert os.listdir(os.environ["PYBAK_HOME"]) == []
    code, out, _ = look(capsys, *words, "--json")
    assert (code, json.loads(out)["status"]) == (10, "failed")


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words))
def test_a_catalog_that_is_none_is_told_and_left_as_it_is(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    path = Path(os.environ["PYBAK_HOME"], "catalog.db")
    path.write_bytes(b"no database at all\n" * 100)
    code, _, err = look(capsys, *words)
    assert code == 1
    assert "the catalog can't be used" in err
    assert path.read_bytes() == b"no database at all\n" * 100


def test_a_postgresql_that_holds_nothing_gets_no_tables(
    capsys: pytest.CaptureFixture[str], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catalogs import tables_of

    monkeypatch.setenv("PYBAK_CATALOG_URL", postgres_url)
    assert look(capsys, "snapshots")[0] == 10
    assert tables_of(postgres_url) == set()


# ---- versions


def test_versions_show_when_a_file_was_like_what(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    code, out, err = look(capsys, "versions", "docs/a.txt")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "docs/a.txt, job docs"
    assert lines[2].split()[:8] == [
        "1", "2026-11-20", "10:00:00", "2026-11-20", "10:00:00", "docs0001", "new", "-rw-r--r--",
    ]  # fmt: skip
    assert lines[3].split()[:8] == [
        "2", "2026-11-20", "11:00:00", "2026-11-20", "12:00:00", "docs0003", "content",
        "-rw-r--r--",
    ]  # fmt: skip
    assert lines[4] == "To get one back:"
    assert shlex.split(lines[5]) == [
        "1", "python", "flows/restore.py", docs.runs[0].run_id, "--to", "restored", "--include",
        "/docs/a.txt",
    ]  # fmt: skip


def test_versions_say_what_changed_and_since_when_a_file_is_gone(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    (mode,) = parsed(capsys, "versions", "mode.txt")["members"]
    assert [one["change"] for one in mode["versions"]] == ["new", "metadata"]
    assert [one["mode"] for one in mode["versions"]] == ["0644", "0600"]
    assert mode["gone"] is None
    (gone,) = parsed(capsys, "versions", "b.txt")["members"]
    (version,) = gone["versions"]
    assert (version["from"]["seq"], version["until"]["seq"], gone["gone"]["seq"]) == (1, 2, 3)
    assert version["archive"] == str(docs.place / "docs-1.zip")
    assert "gone since 2026-11-20 12:00:00, run docs0003" in look(capsys, "versions", "b.txt")[1]


@pytest.mark.parametrize(
    "name",
    [
        "docs/a.txt", "/docs/a.txt", "a.txt", "{place}/docs/a.txt", "./docs/a.txt",
        "docs/../docs/a.txt",
    ],
)  # fmt: skip
def test_a_file_is_known_by_its_member_name_its_path_and_the_end_of_it(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, name: str
) -> None:
    shown = parsed(capsys, "versions", name.format(place=docs.place))
    assert [one["path"] for one in shown["members"]] == ["docs/a.txt"]


def test_a_relative_path_is_taken_from_the_current_folder(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = WrittenJob(docs.url, "mail")
    other.run(file("mail/a.txt", "x"))
    (docs.place / "docs").mkdir()
    assert len(parsed(capsys, "versions", "a.txt")["members"]) == 2
    monkeypatch.chdir(docs.place / "docs")
    assert [one["path"] for one in parsed(capsys, "versions", "a.txt")["members"]] == ["docs/a.txt"]
    monkeypatch.chdir(docs.place)
    shown = parsed(capsys, "versions", "a.txt", "--job", "mail")
    assert [one["path"] for one in shown["members"]] == ["mail/a.txt"]


def test_versions_of_nothing_gives_10_and_of_everything_2(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    code, _, err = look(capsys, "versions", "A.TXT")
    assert (code, err.count("\n")) == (10, 1)
    assert look(capsys, "versions", "a%txt")[0] == 10
    docs.run(*(file(f"docs/{n}/same", "x") for n in range(21)), base=docs.runs[-1])
    code, _, err = look(capsys, "versions", "same")
    assert code == 2
    assert "21 members end like this" in err
    assert look(capsys, "versions")[0] == 2


def test_a_version_that_a_differential_run_found_again_is_one(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    docs.run(base=docs.runs[0], mode="differential")
    (member,) = parsed(capsys, "versions", "docs/a.txt")["members"]
    spans = [(one["from"]["seq"], one["until"]["seq"]) for one in member["versions"]]
    assert spans == [(1, 1), (2, 3), (4, 4)]
    (member,) = parsed(capsys, "versions", "docs/b.txt")["members"]
    assert [(one["from"]["seq"], one["until"]["seq"]) for one in member["versions"]] == [(1, 4)]


def test_versions_whose_contents_one_archive_holds_are_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chain = Chain(tmp_path, catalog_url=catalog_url())
    chain.write({"a": "AAAA first", "b": "BBBB other", "c": "C"})
    chain.run("full")
    chain.write({"a": "BBBB other"})
    chain.run(dedupe=True)
    (chain.source / "a").chmod(0o600)
    chain.run(dedupe=True)
    (chain.source / "c").unlink()
    chain.run(dedupe=True)
    (member,) = parsed(capsys, "versions", "docs/a")["members"]
    versions = member["versions"]
    assert len({one["archive"] for one in versions}) == 1
    spans = [(one["from"]["seq"], one["until"]["seq"]) for one in versions]
    assert spans == [(1, 1), (2, 2), (3, 4)]
    assert [one["change"] for one in versions] == ["new", "content", "metadata"]
    assert [one["mode"] for one in versions] == ["0644", "0644", "0600"]
    assert [one["sha256"] for one in versions] == [
        hashlib.sha256(content).hexdigest()
        for content in (b"AAAA first", b"BBBB other", b"BBBB other")
    ]


@pytest.mark.parametrize("kind", ["l", "h"], ids=["symbolic", "hard"])
def test_a_link_to_something_else_is_another_content(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, kind: str
) -> None:
    link: dict[str, Any] = {"type": kind, "sha256": None}
    states: list[dict[str, Any]] = [
        {}, {"mode": 0o600}, {"uid": 7}, {"mtime_ns": MTIME + SECOND}, {"size": 9}
    ]  # fmt: skip
    for more in states:
        docs.run(file("docs/link", **link, **more), base=docs.runs[-1])
        link |= more
    (member,) = parsed(capsys, "versions", "docs/link")["members"]
    changes = ["new", "metadata", "metadata", "content", "content"]
    assert [one["change"] for one in member["versions"]] == changes


@pytest.mark.parametrize(
    "fields",
    [{}, {"sha256": None, "size": 5, "parts": [Part(0, 5, "0" * 64)]},
     {"type": "l", "sha256": None}, {"type": "d", "sha256": None}, {"type": "p", "sha256": None}],
    ids=["file", "parts", "link", "folder", "fifo"],
)  # fmt: skip
def test_what_full_runs_store_again_has_not_changed(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, fields: dict[str, Any]
) -> None:
    """An inode's time that moved tells of attributes, which the catalog does not hold."""
    moved = {"mtime_ns": MTIME + SECOND} if fields.get("type") == "d" else {"mode": 0o600}
    for more in ({}, {}, moved, moved, moved | {"ctime_ns": MTIME + SECOND}):
        docs.run(file("docs/x", **{**fields, **more}))
    (member,) = parsed(capsys, "versions", "docs/x")["members"]
    changes = ["new", "none", "metadata", "none", "metadata"]
    assert [one["change"] for one in member["versions"]] == changes


ODD = [
    "sp ace ",
    "star*",
    "[x]",
    "!bang",
    "#hash",
    "back\\slash",
    "quo'te",
    "new\nline",
    "\udcff",
    "ünï",
    "-dash",
]


@pytest.mark.parametrize("name", ODD)
def test_the_command_line_restores_just_that_file(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob, name: str
) -> None:
    """(cases 1 to 10)"""
    docs.run(file(f"docs/{name}", "x"), file("docs/starry"), file("docs/x"), base=docs.runs[-1])
    (member,) = parsed(capsys, "versions", f"docs/{name}")["members"]
    (version,) = member["versions"]
    # What a shell makes of the line, `$'...'` included.
    import subprocess

    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {version['restore']}"], capture_output=True, check=True
    ).stdout.split(b"\0")
    pattern = os.fsdecode(words[words.index(b"--include") + 1])
    selector = Selector([pattern])
    taken = [
        one for one in [*ODD, "starry", "x"]
        if selector.wants(os.fsencode(f"docs/{one}"), is_folder=False)
    ]  # fmt: skip
    assert taken == [name]


def test_a_pattern_of_a_name_takes_it_alone() -> None:
    assert exact_pattern(b"docs/a.txt") == "/docs/a.txt"
    assert not Selector([exact_pattern(b"a.txt")]).wants(b"docs/a.txt", is_folder=False)


# ---- diff


def test_a_difference_tells_added_removed_changed_and_metadata(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    code, out, err = look(capsys, "diff", "docs0001", "docs0003")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "--- run docs0001, 2026-11-20 10:00:00, job docs"
    assert lines[1] == "+++ run docs0003, 2026-11-20 12:00:00, job docs"
    assert [line.split() for line in lines[2:6]] == [
        ["M", "3", "B", ">", "6", "B", "docs/a.txt"],
        ["-", "3", "B", "docs/b.txt"],
        ["m", "1", "B", "docs/mode.txt", "(mode", "0644", ">", "0600)"],
        ["+", "3", "B", "docs/new.txt"],
    ]  # fmt: skip
    assert lines[-1] == (
        "1 added (3 B), 1 removed (3 B), 1 changed (6 B), 1 member with other metadata only"
    )


def test_a_difference_as_json_counts_and_turns_around(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    shown = parsed(capsys, "diff", "latest", docs.runs[0].run_id)
    assert set(shown) == {"from", "to", "changes", "total", "status", "errors"}
    assert (shown["from"]["seq"], shown["to"]["seq"]) == (3, 1)
    assert {one["path"]: one["change"] for one in shown["changes"]} == {
        "docs/a.txt": "changed", "docs/b.txt": "added", "docs/new.txt": "removed",
        "docs/mode.txt": "metadata",
    }  # fmt: skip
    assert shown["total"] == {
        "added": 1, "removed": 1, "changed": 1, "metadata": 1, "added_size": 3,
        "removed_size": 3, "changed_size": 3,
    }  # fmt: skip
    (added,) = [one for one in shown["changes"] if one["change"] == "added"]
    assert added["before"] is None
    assert (added["after"]["size"], added["after"]["type"]) == (3, "file")


def test_one_run_is_compared_with_the_latest_and_times_name_runs(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    shown = parsed(capsys, "diff", "docs0002")
    assert [one["path"] for one in shown["changes"]] == ["docs/b.txt"]
    shown = parsed(capsys, "diff", "2026-11-20 10:30", "2026-11-20 11:00")
    assert (shown["from"]["seq"], shown["to"]["seq"]) == (1, 2)
    code, _, err = look(capsys, "diff", "2026-11-19")
    assert (code, "no backup is as old" in err) == (10, True)
    assert look(capsys, "diff", "2026-13-45")[0] == 2


def test_nothing_differs_from_itself_nor_from_its_copy(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    docs.run(base=docs.runs[0], mode="differential")
    for words in (["docs0001", "docs0001"], ["docs0001", "docs0004"]):
        code, out, _ = look(capsys, "diff", *words)
        assert (code, out.splitlines()[2:]) == (0, ["nothing differs"])


def test_jobs_are_compared_by_name_and_content(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    other = WrittenJob(docs.url, "copy")
    other.run(
        folder("docs", mtime_ns=5), file("docs/a.txt", "one", inode=99),
        file("docs/b.txt", "bug"), folder("docs/mode.txt"),
    )  # fmt: skip
    shown = parsed(capsys, "diff", "docs0001", "copy0001")
    assert {one["path"]: one["change"] for one in shown["changes"]} == {
        "docs/b.txt": "changed", "docs/mode.txt": "changed",
    }  # fmt: skip
    assert "(file > folder, mode 0644 > 0755)" in look(capsys, "diff", "docs0001", "copy0001")[1]
    shown = parsed(capsys, "diff", "copy0001", "docs0001")
    assert {one["path"]: one["change"] for one in shown["changes"]} == {
        "docs/b.txt": "changed", "docs/mode.txt": "changed",
    }  # fmt: skip


def test_a_run_that_is_not_told_apart_is_asked_for(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    more = WrittenJob(docs.url, "docs0001")
    more.run(file("x"), run_id="docs0001-1111-4000-8000-000000000000")
    code, _, err = look(capsys, "diff", "docs0001", "docs0002")
    assert (code, "which run?" in err) == (2, True)
    assert parsed(capsys, "diff", "docs0001-1", "docs0001-0")["total"]["added"] == 4
    assert look(capsys, "diff", "docs000", "docs0002")[0] == 10
    assert look(capsys, "diff", "nosuchrun", "docs0001")[0] == 10
    assert look(capsys, "diff")[0] == 2
    assert look(capsys, "diff", "a", "b", "c")[0] == 2


def test_differences_are_the_same_on_every_database(
    any_catalog: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PYBAK_CATALOG_URL", any_catalog)
    made = WrittenJob(any_catalog, place=tmp_path)
    names = ["a", "B", "c/d", "c-d", "c d", "ü", "\udcfe", "x\\y"]
    full = made.run(*(file(name, "1") for name in names))
    made.run(*(file(name, "22") for name in names[::2]), base=full, gone=names[1::2])
    made.close()
    shown = parsed(capsys, "diff", made.runs[0].run_id)
    assert {one["path"]: one["change"] for one in shown["changes"]} == {
        name: "removed" if number % 2 else "changed" for number, name in enumerate(names)
    }
    (member,) = parsed(capsys, "versions", "x\\y")["members"]
    assert member["path"] == "x\\y"
    assert parsed(capsys, "find", "c*")["total"] == {"members": 5, "archives": 2, "searched": 2}


# ---- find and list


def test_find_takes_all_versions_from_the_catalog_newest_first(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    shown = parsed(capsys, "find", "a.txt")
    assert [os.path.basename(one["archive"]) for one in shown["archives"]] == [
        "docs-2.zip", "docs-1.zip",
    ]  # fmt: skip
    assert [one["members"][0]["size"] for one in shown["archives"]] == [6, 3]
    assert shown["total"] == {"members": 2, "archives": 2, "searched": 3}
    code, out, _ = look(capsys, "find", "*.txt")
    assert code == 0
    assert out.splitlines()[-1] == "6 matches in 2 of 3 archives"
    assert look(capsys, "find", "nothing") == (
        3, "", "pybak: nothing: matches no member; to find a part of a name, write '*nothing*'\n",
    )  # fmt: skip


def test_find_tells_a_version_once_though_snapshots_between_lack_it(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    docs.run(base=docs.runs[0], mode="differential")
    assert parsed(capsys, "find", "b.txt")["total"] == {
        "members": 1, "archives": 1, "searched": 4,
    }  # fmt: skip


def test_find_leaves_out_archives_that_are_gone(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    (docs.place / "docs-2.zip").unlink()
    shown = parsed(capsys, "find", "a.txt")
    assert [os.path.basename(one["archive"]) for one in shown["archives"]] == ["docs-1.zip"]
    assert shown["total"]["searched"] == 2


def test_find_knows_archives_whose_own_snapshots_a_prune_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, any_catalog: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYBAK_CATALOG_URL", any_catalog)
    shelf = Shelf(tmp_path / "shelf", any_catalog)
    shelf.add({"a": 1})
    shelf.add({"wanted.txt": 2}, mode="incremental")
    shelf.add({"a": 3}, mode="incremental")
    assert shelf.prune(keep_last=1).status == "success"
    assert (shelf.seqs(), shelf.files()) == ([3], names(2, 3))
    shelf.database.close()
    shown = parsed(capsys, "find", "wanted.txt")
    assert [one["archive"] for one in shown["archives"]] == [shelf.path("docs_0002.zip")]
    assert shown["total"] == {"members": 1, "archives": 1, "searched": 2}
    assert parsed(capsys, "find", "a", "--job", "docs")["total"]["members"] == 1


def test_a_snapshot_in_several_archives_is_listed_whole(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    shown = parsed(capsys, "list", "latest")
    places = {one["path"]: os.path.basename(one["archive"]) for one in shown["members"]}
    assert places == {
        "docs": "docs-1.zip", "docs/a.txt": "docs-2.zip", "docs/new.txt": "docs-2.zip",
        "docs/mode.txt": "docs-2.zip",
    }  # fmt: skip
    assert [os.path.basename(one) for one in shown["archives"]] == ["docs-1.zip", "docs-2.zip"]
    assert shown["total"] == {"members": 4, "size": 10, "stored_size": None, "ratio": None}
    assert shown["run"]["seq"] == 3
    code, out, _ = look(capsys, "list", "docs0002", "/docs/a.txt", "nothing")
    lines = out.splitlines()
    assert code == 3
    assert lines[1].split()[-2:] == ["2", "docs/a.txt"]
    assert lines[2].startswith("1 member, 6 B; run docs0002 of 2026-11-20 11:00:00, in 2 archives")
    assert lines[3].split() == ["1", str(docs.place / "docs-1.zip")]


def test_a_full_backup_is_listed_from_any_place_or_else_from_the_catalog(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chain = Chain(tmp_path, catalog_url=catalog_url())
    chain.write({"a.txt": "one", "d/b.txt": "two"})
    chain.run("full")
    assert transfer(chain.job.url, to=tmp_path / "second", job="docs").status == "success"
    ((here, there),) = places_of(chain.job.url)

    def members(*words: str) -> tuple[str, list[str]]:
        shown = parsed(capsys, "list", "latest", *words)
        return shown["archive"], [one["path"] for one in shown["members"] if one["size"]]

    every = ["docs/a.txt", "docs/d/b.txt"]
    assert members() == (here, every)
    Path(here).unlink()
    assert members() == (there, every)
    assert members("b.txt") == (there, every[1:])
    Path(there).unlink()
    assert members() == (here, every)
    assert members("b.txt") == (here, every[1:])
    code, out, err = look(capsys, "list", chain.job.snapshots[0].run_id)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].split() == ["1", here]


def test_names_from_the_catalog_move_no_cursor(
    capsys: pytest.CaptureFixture[str], docs: WrittenJob
) -> None:
    """(cases 3 and 7)"""
    docs.run(file("docs/\x1b[2J\n\udcff", "x"), base=docs.runs[-1], tags=["\x1b]0;t"])
    for words in (["list", "latest"], ["find", "docs/*"], ["diff", "docs0003"], ["snapshots"],
                  ["versions", "docs/\x1b[2J\n\udcff"]):  # fmt: skip
        code, out, _ = look(capsys, *words)
        assert code == 0
        assert "\x1b" not in out
        assert r"\x1b" in out
