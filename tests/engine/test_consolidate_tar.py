"""Tar archives consolidated: pieces are copied, others packed anew without what is not wanted."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attributed import folder_with_attributes
from backing_up import TARS, judge, noise, prose, run_tool, shrink, unpack
from consolidating import Chain, Tar, four_runs, verified
from jobs import Tree, seen

from pybak.formats import streams
from pybak.retention import consolidate

START = {"tar.gz": 10}


@pytest.fixture(params=TARS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of some kB go the ways of large ones, and pieces be small."""
    shrink(monkeypatch, part=60_000)
    monkeypatch.setattr(
        consolidate, "codec", lambda *how: replace(streams.codec(*how), piece_bytes=8_000)
    )


def tar_of(path: Path, form: str) -> Tar:
    return Tar(path.read_bytes(), form)


def timeless(tree: Tree) -> Tree:
    """Forget the times of folders."""
    return {
        path: found._replace(mtime_ns=0) if stat.S_ISDIR(found.kind) else found
        for path, found in tree.items()
    }


def many(chain: Chain, count: int = 120) -> None:
    """Write files that fill several pieces of a batch."""
    chain.write({f"f{number:03d}": prose(700, number) for number in range(count)})


@pytest.mark.needs_tool("bsdtar")
def test_the_chain_goes_and_other_programs_read_the_archive(tmp_path: Path, form: str) -> None:
    chain = four_runs(tmp_path, format=form)
    (last,) = (one for one in chain.job.snapshots if one.seq == 4)
    archive = chain.consolidated()
    assert chain.volumes == [archive]
    judge(archive)
    # Folders come in the order of the runs, so their times are for the end.
    found = unpack(archive, tmp_path / "by-tar", "tar", "--delay-directory-restore")
    assert seen(found / "docs") == chain.states[4]
    found = unpack(archive, tmp_path / "by-bsdtar", "bsdtar")
    assert timeless(seen(found / "docs")) == timeless(chain.states[4])
    verified(archive)
    (kept,) = chain.job.snapshots
    assert (kept.run_id, kept.mode, kept.base_run) == (last.run_id, "full", None)
    chain.check()
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held
    chain.check()


@pytest.mark.needs_tool("gzip", "bzip2", "zstd")
def test_decompressors_alone_read_it(tmp_path: Path, form: str) -> None:
    chain = four_runs(tmp_path, format=form)
    archive = chain.consolidated()
    program = {"tar.gz": "gzip", "tar.bz2": "bzip2", "tar.zst": "zstd"}.get(form, "cat")
    if program != "cat":
        run_tool(program, "-t", archive)
    reading = [program] if program == "cat" else [program, "-dc"]
    plain = subprocess.run([*reading, archive], check=True, capture_output=True).stdout
    assert plain == tar_of(archive, form).plain


@pytest.mark.usefixtures("_small")
def test_pieces_are_copied_but_for_those_that_hold_what_is_not_wanted(
    tmp_path: Path, form: str
) -> None:
    chain = Chain(tmp_path, format=form, workers=1)
    many(chain)
    secret = noise(300, 7).hex()
    chain.write({"f060": secret})
    chain.run("full")
    first = tar_of(chain.volumes[0], form)
    chain.write({"f060": "changed"})
    chain.run()
    second = tar_of(chain.volumes[1], form)
    merged = tar_of(chain.consolidated(), form)
    start = START.get(form, 0)
    old = Counter(first.pieces(start))
    copied = sum((old & Counter(merged.pieces(start))).values())
    assert copied == old.total() - 1 >= 8
    # What was not wanted is gone, also from the bytes between members.
    assert secret.encode() in first.plain
    assert secret.encode() not in merged.plain
    assert merged.read("docs/f060") == b"changed"
    # All else is what it was, headers included.
    wanted = first.blocks() | second.blocks()
    assert merged.blocks() == wanted
    chain.check()


@pytest.mark.usefixtures("_small")
def test_large_sparse_and_oddly_named_files_stay_to_the_byte(tmp_path: Path, form: str) -> None:
    with folder_with_attributes(tmp_path) as place:
        chain = Chain(place, format=form)
        many(chain, 30)
        source = chain.source
        name = "long " * 30 + "\udcff"
        chain.write({"large": prose(300_000, 1), f"deep/{name}": "x", "z": "1"})
        with (source / "sparse").open("wb") as file:
            file.write(b"head" * 4096)
            file.seek(200_000, os.SEEK_CUR)
            file.write(b"tail" * 4096)
        os.setxattr(source / "z", "user.pybak", b"value")
        os.mkfifo(source / "pipe")
        os.utime(source / "f003", ns=(1, -5_000_000_001))
        chain.run("full")
        chain.write({"f001": "2", "f002": "2", "more": noise(100_000, 1)})
        (source / "f004").unlink()
        chain.run()
        before = [tar_of(path, form).blocks() for path in chain.volumes]
        archive = chain.consolidated()
        merged = tar_of(archive, form)
        old = before[0] | before[1]
        del old["docs/f004"]
        assert merged.blocks() == old
        assert any(line.sparse for line in merged.manifest.lines) or form == "none"
        verified(archive)
        chain.check()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("size", [5_000, 200_000])
def test_a_link_whose_file_was_dropped_becomes_the_file(
    tmp_path: Path, form: str, size: int
) -> None:
    """Others link to it; links whose file is taken stay links."""
    with folder_with_attributes(tmp_path) as place:
        chain = Chain(place, format=form)
        source = chain.source
        many(chain, 20)
        content = prose(size, 5)
        chain.write({"a": content, "k": "kept"})
        os.setxattr(source / "a", "user.pybak", b"value")
        for name in ("b", "c"):
            os.link(source / "a", source / name)
        os.link(source / "k", source / "l")
        chain.run("full")
        first = tar_of(chain.volumes[0], form)
        assert first.members["docs/c"].linkname == "docs/a"
        chain.write({"new": "2"})
        chain.run(exclude=["/a"])
        tree = chain.states[2]
        del tree[b"a"]
        archive = chain.consolidated()
        merged = tar_of(archive, form)
        assert "docs/a" not in merged.names
        assert merged.members["docs/b"].isreg()
        assert merged.read("docs/b") == content
        assert merged.members["docs/c"].linkname == "docs/b"
        assert merged.members["docs/l"].linkname == "docs/k"
        assert merged.names.index("docs/b") < merged.names.index("docs/c")
        judge(archive)
        verified(archive)
        chain.check()
        held = chain.held()
        chain.rebuild()
        assert chain.held() == held
        made = chain.job.run(format=form, exclude=["/a"])
        assert made.report.status == "unchanged"


@pytest.mark.usefixtures("_small")
def test_a_link_never_binds_to_another_file_of_the_same_name(tmp_path: Path) -> None:
    chain = Chain(tmp_path, format="tar.zst")
    source = chain.source
    chain.write({"a": "one inode"})
    os.utime(source / "a", ns=(10**18, 10**18))
    for name in ("b", "c"):
        os.link(source / "a", source / name)
    # Long after the files were touched: so their times tell all.
    later = datetime.now(UTC) + timedelta(hours=1)
    chain.run("full", now=later)
    os.unlink(source / "a")
    chain.write({"a": "another file"})
    chain.run(ignore_ctime=True, now=later + timedelta(hours=1))
    archive = chain.consolidated()
    merged = tar_of(archive, "tar.zst")
    assert merged.read("docs/b") == merged.read("docs/c") == b"one inode"
    assert merged.read("docs/a") == b"another file"
    chain.check()


@pytest.mark.parametrize(("old", "new"), [(1, 9), (9, 2)])
def test_levels_may_differ(tmp_path: Path, form: str, old: int, new: int) -> None:
    chain = Chain(tmp_path, format=form)
    many(chain)
    chain.run("full", level=old)
    chain.write({"f060": "changed"})
    chain.run(level=new)
    archive = chain.consolidated()
    judge(archive)
    verified(archive)
    chain.check()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("is_copied", [True, False])
def test_damage_in_the_chain_changes_nothing(tmp_path: Path, form: str, is_copied: bool) -> None:
    """A piece that is copied is looked into too, but for bzip2."""
    chain = Chain(tmp_path, format=form, workers=1)
    many(chain)
    chain.run("full")
    chain.write({"f060": "changed"})
    chain.run()
    first = chain.volumes[0]
    archive = tar_of(first, form)
    pieces = archive.pieces(START.get(form, 0))
    place = archive.plain.index(prose(700, 60)) // 8_000
    hit = pieces[1 if is_copied else place]
    data = bytearray(first.read_bytes())
    data[data.index(hit) + len(hit) // 2] ^= 4
    first.write_bytes(data)
    before = chain.job.archives
    done = chain.prune(keep_last=1)
    if is_copied and form == "tar.bz2":
        assert done.status == "success"
        return
    assert done.status == "partial"
    assert done.consolidated is None
    (problem,) = done.errors
    assert problem.code == "damaged"
    assert str(first) in problem.message
    assert chain.job.archives == before
    assert chain.job.snapshots[-1].seq == 2


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("seed", range(3))
def test_random_histories_restore_to_what_they_were(tmp_path: Path, seed: int) -> None:
    """With links, renames and changes of type, and a consolidation now and then. (case 94)"""
    dice = random.Random(seed)
    chain = Chain(tmp_path, format=TARS[seed % 4], workers=2)
    made = 0
    for step in range(14):
        for _ in range(dice.randrange(1, 25)):
            made += 1
            path = chain.source / f"d{dice.randrange(3)}" / f"f{dice.randrange(30)}"
            path.parent.mkdir(exist_ok=True)
            others = [one for one in chain.source.rglob("f*") if one.is_file()]
            act = dice.choice(["write", "write", "large", "remove", "link", "symlink", "move"])
            path.unlink(missing_ok=True)
            if act == "write":
                path.write_bytes(prose(dice.randrange(3000), made))
            elif act == "large":
                path.write_bytes(noise(dice.randrange(150_000), made))
            elif act == "symlink":
                path.symlink_to(f"to {made}")
            elif act in ("link", "move") and (others := [one for one in others if one != path]):
                other = dice.choice(others)
                os.link(other, path)
                if act == "move":
                    other.unlink()
        chain.write({"always": str(step)})
        chain.run(dice.choice(["full", *["incremental"] * 6, "differential"]))
        if dice.random() < 0.3:
            done = chain.prune(keep_last=dice.randrange(1, 4))
            assert done.status == "success", done.errors
            chain.check()
    done = chain.prune(keep_last=1)
    (archive,) = chain.volumes
    verified(archive)
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held
    chain.check()
