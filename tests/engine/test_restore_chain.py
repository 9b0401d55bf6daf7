"""A snapshot that several archives hold together comes back as one tree."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD
from chains import ALL, HOW, Chain, alone, below, edited, sample, share, write
from restoring import foretell, plan, restore
from walker import walk

from pybak.entries import FILE
from pybak.errors import (
    NotFoundError,
    PlanError,
)
from pybak.problems import DAMAGED, NO_MATCH, STORAGE
from pybak.restore import gather
from pybak.restore.items import Item, read_parts
from pybak.restore.select import Selector
from pybak.restore.snapshot import Share
from pybak.restore.stream import restore_to_stream


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with a bit of everything."""
    return sample(tmp_path / "source" / "docs")


@pytest.fixture
def chain(docs: Path, tmp_path: Path) -> Chain:
    """Three states of it: changed, with some gone, with a folder in a file's place."""
    return edited(Chain(docs, tmp_path / "archives"))


@pytest.mark.parametrize("kind", ALL)
def test_every_state_comes_back_whatever_archive_holds_what(
    docs: Path, tmp_path: Path, kind: str
) -> None:
    """Modes and times of folders are right though later archives wrote into them."""
    chain = edited(Chain(docs, tmp_path / "archives", **HOW[kind]))
    pick = random.Random(1).choice
    for number, state in enumerate(chain.states):
        for how, chosen in (("old", min), ("any", pick)):
            target = tmp_path / f"target-{number}-{how}"
            snapshot = chain.snapshot(number, pick=chosen)
            result = restore(snapshot, target, password=HOW[kind].get("password"))
            assert alone(walk(target)) == state
            assert result.problems == []
            assert result.restored == sum(not stat.S_ISDIR(found.kind) for found in state.values())


def test_the_formats_of_a_chain_may_differ(docs: Path, tmp_path: Path) -> None:
    """Each is read as what it is, with one password for those that are encrypted."""
    formats = [{"format": "tar.zst"}, {"password": PASSWORD}, {"format": "tar.gz"}]
    chain = edited(Chain(docs, tmp_path / "archives"), *formats)
    result = restore(chain.snapshot(), tmp_path / "target", password=PASSWORD, tasks=2)
    assert alone(walk(tmp_path / "target")) == chain.states[-1]
    assert result.problems == []


def test_a_single_archive_taken_by_all_its_names_is_that_archive(
    chain: Chain, tmp_path: Path
) -> None:
    names = {len(chain.states) - 1: chain.states[-1]}
    restore(chain.shares(names), tmp_path / "target")
    assert alone(walk(tmp_path / "target")) == chain.states[-1]


def test_members_that_the_snapshot_does_not_take_stay_in_their_archives(
    chain: Chain, tmp_path: Path
) -> None:
    """What was deleted, and older versions, are not there (deletions are respected)."""
    restore(chain.snapshot(), tmp_path / "target")
    assert not (tmp_path / "target/docs/b.txt").exists()
    assert (tmp_path / "target/docs/a.txt").read_text() == "second a, longer"
    assert (tmp_path / "target/docs/noise").is_dir()


class TestOpening:
    """Each archive is opened once, and only if it holds something that is wanted."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The archives that a plan opened."""
        names: list[str] = []
        original = gather.open_archive

        def note(paths: Any, **more: Any) -> Any:
            names.append(os.path.basename(os.fsdecode(paths[0])))
            return original(paths, **more)

        monkeypatch.setattr(gather, "open_archive", note)
        return names

    def test_each_archive_is_opened_once(
        self, chain: Chain, tmp_path: Path, opened: list[str]
    ) -> None:
        restore(chain.snapshot(), tmp_path / "target")
        assert opened == [made.path.name for made in chain.archives]

    @pytest.mark.parametrize(
        ("pattern", "number"),
        [("docs/a.txt", 1), ("**/noise/file", 2), ("d*/sub/c.txt", 0), ("/docs/sub/deep/d.txt", 2)],
    )
    def test_one_file_opens_one_archive(
        self, chain: Chain, tmp_path: Path, opened: list[str], pattern: str, number: int
    ) -> None:
        result = restore(chain.snapshot(), tmp_path / "target", include=[pattern])
        assert opened == [chain.archives[number].path.name]
        assert (result.restored, result.problems) == (1, [])

    def test_patterns_that_take_nothing_open_nothing(
        self, chain: Chain, tmp_path: Path, opened: list[str]
    ) -> None:
        result = restore(chain.snapshot(), tmp_path / "target", include=["b.txt"])
        assert opened == []
        assert result.codes == {"b.txt": NO_MATCH}
        assert (result.restored, result.failed) == (0, 0)

    def test_a_pattern_for_folders_takes_no_file_of_that_name(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        """A name alone does not tell what it is; the archive does."""
        result = restore(chain.snapshot(), tmp_path / "target", include=["a.txt/"])
        assert result.codes == {"a.txt/": NO_MATCH}
        assert result.restored == 0

    def test_a_lost_archive_that_is_not_needed_is_not_missed(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        chain.archives[0].path.unlink()
        result = restore(chain.snapshot(), tmp_path / "target", include=["a.txt"])
        assert (result.restored, result.problems) == (1, [])


class TestHardLinks:
    """A link to what the snapshot takes from elsewhere holds the content itself."""

    @pytest.fixture
    def linked(self, tmp_path: Path) -> Chain:
        docs = tmp_path / "source" / "docs"
        write(docs / "a", "one file, three names")
        os.link(docs / "a", docs / "b")
        os.link(docs / "a", docs / "c")
        return Chain(docs, tmp_path / "archives", format="tar")

    def test_names_that_come_from_one_archive_stay_one_file(
        self, linked: Chain, tmp_path: Path
    ) -> None:
        linked.save()
        write(linked.source / "other", "x")
        linked.save()
        restore(linked.snapshot(), tmp_path / "target")
        docs = tmp_path / "target/docs"
        assert len({os.lstat(docs / name).st_ino for name in "abc"}) == 1

    def test_a_stale_first_name_is_not_linked_to(self, linked: Chain, tmp_path: Path) -> None:
        """It holds something else now; the other names keep the old content, as one file."""
        linked.save()
        (linked.source / "a").unlink()
        write(linked.source / "a", "new")
        linked.save()
        names = {0: [b"docs/b", b"docs/c"], 1: [b"docs", b"docs/a"]}
        result = restore(linked.shares(names), tmp_path / "target")
        docs = tmp_path / "target/docs"
        assert [(docs / name).read_text() for name in "abc"] == ["new"] + 2 * [
            "one file, three names"
        ]
        assert os.lstat(docs / "b").st_ino == os.lstat(docs / "c").st_ino
        assert os.lstat(docs / "a").st_nlink == 1
        assert (result.restored, result.problems) == (3, [])

    def test_a_link_whose_first_name_is_gone_is_a_file(self, linked: Chain, tmp_path: Path) -> None:
        linked.save()
        restore(linked.shares({0: [b"docs/c"]}), tmp_path / "target")
        assert (tmp_path / "target/docs/c").read_text() == "one file, three names"


class TestTarget:
    """What is done at the target looks at the snapshot as a whole."""

    def test_surplus_is_what_the_whole_snapshot_lacks(self, chain: Chain, tmp_path: Path) -> None:
        target = tmp_path / "target"
        restore(chain.snapshot(0), target)
        write(target / "docs/sub/stranger", "x")
        write(target / "elsewhere", "stays")
        how = {"deletes": True, "overwrite": "always"}
        foretold = foretell(chain.snapshot(), target, **how)
        result = restore(chain.snapshot(), target, **how)
        assert result.counts == foretold
        assert result.deleted_paths == {"docs/b.txt", "docs/sub/stranger"}
        assert below(alone(walk(target)), "docs") == chain.states[-1]
        assert (target / "elsewhere").exists()

    def test_what_a_lost_archive_held_is_no_surplus(self, chain: Chain, tmp_path: Path) -> None:
        target = tmp_path / "target"
        restore(chain.snapshot(0), target)
        chain.archives[0].path.unlink()
        result = restore(chain.snapshot(), target, deletes=True)
        assert (target / "docs/sub/c.txt").read_text() == "first sub/c"
        assert result.deleted_paths == {"docs/b.txt"}

    def test_surplus_in_a_folder_whose_files_all_come_from_elsewhere(self, tmp_path: Path) -> None:
        """An empty folder at the top is tidied as well."""
        docs = tmp_path / "source" / "docs"
        docs.mkdir(parents=True)
        chain = Chain(docs, tmp_path / "archives")
        chain.save()
        target = tmp_path / "target"
        write(target / "docs/stranger", "x")
        result = restore(chain.snapshot(), target, deletes=True)
        assert result.deleted_paths == {"docs/stranger"}

    @pytest.mark.parametrize("overwrite", ["never", "if-newer", "if-changed", "always"])
    def test_a_rehearsal_counts_what_the_restore_does(
        self, chain: Chain, tmp_path: Path, overwrite: str
    ) -> None:
        target = tmp_path / "target"
        restore(chain.snapshot(1), target)
        write(target / "docs/sub/c.txt", "mine")
        snapshot = chain.snapshot(1)
        foretold = foretell(snapshot, target, overwrite=overwrite)
        before = alone(walk(target))
        result = restore(snapshot, target, overwrite=overwrite)
        assert result.counts == foretold
        if overwrite == "never":
            assert alone(walk(target)) == before
        elif overwrite in ("if-changed", "always"):
            assert alone(walk(target)) == chain.states[1]

    def test_no_archive_of_the_chain_is_overwritten(self, tmp_path: Path) -> None:
        """Nor one that is not even opened."""
        docs = tmp_path / "target" / "docs"
        write(docs / "a.txt", "a")
        chain = Chain(docs, tmp_path / "archives")
        chain.save()
        kept = tmp_path / "target/docs/backup.zip"
        shutil.copy(chain.archives[0].path, kept)
        chain.save()
        snapshot = [
            Share(str(kept), (os.fsencode(kept),), frozenset([b"docs/a.txt"])),
            share(chain.archives[1], "docs", "docs/backup.zip"),
        ]
        before = kept.read_bytes()
        result = restore(snapshot, tmp_path / "target", include=["*.zip"], overwrite="always")
        assert result.codes == {"docs/backup.zip": STORAGE}
        assert kept.read_bytes() == before

    def test_a_folder_of_one_archive_wins_over_a_file_of_another(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        """Only a catalog that contradicts itself asks for both."""
        snapshot = [
            share(chain.archives[0], "docs/noise"),
            share(chain.archives[2], "docs/noise/file"),
        ]
        result = restore(snapshot, tmp_path / "target")
        assert result.codes == {"docs/noise": DAMAGED}
        assert (tmp_path / "target/docs/noise/file").read_text() == "a folder now"


class TestBatches:
    """Work is shared out over all archives."""

    def test_small_archives_share_batches(self, docs: Path, tmp_path: Path) -> None:
        chain = Chain(docs, tmp_path / "archives", format="tar.gz")
        for number in range(8):
            write(docs / "a.txt", f"number {number}")
            write(docs / f"new-{number}", "x" * 100)
            chain.save()
        made = plan(chain.snapshot(), tmp_path / "target", tmp_path, tasks=3)
        parts = [
            [
                (job.volumes, [item.path for item in items if item.kind == FILE])
                for job, items in batch
            ]
            for batch in (read_parts(path, Item) for path in made.batches)
        ]
        assert len(parts) == 3
        for part in parts:
            assert len({volumes for volumes, _ in part}) == len(part)
        files = [path for part in parts for _, paths in part for path in paths]
        assert len(files) == made.files == len(set(files))


class TestStdout:
    """One file of a snapshot goes to a stream."""

    def test_the_version_of_the_snapshot_is_written(self, chain: Chain) -> None:
        for number, text in ((0, b"first a"), (1, b"second a, longer")):
            out = io.BytesIO()
            report = restore_to_stream(chain.snapshot(number), Selector(["a.txt"]), out)
            assert (report.exit_code, out.getvalue()) == (0, text)

    def test_two_files_of_two_archives_are_too_many(self, chain: Chain) -> None:
        with pytest.raises(PlanError, match="2 files are meant"):
            restore_to_stream(chain.snapshot(), Selector(["a.txt", "c.txt"]), io.BytesIO())

    def test_a_lost_archive_is_told(self, chain: Chain) -> None:
        chain.archives[0].path.unlink()
        with pytest.raises(NotFoundError, match="no longer there"):
            restore_to_stream(chain.snapshot(), Selector(["c.txt"]), io.BytesIO())
