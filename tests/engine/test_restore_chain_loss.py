"""What a restore of several archives does where one is lost, locked or too large."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from backing_up import PASSWORD, noise
from chains import HOW, Chain, edited, sample, share, write
from restoring import foretell, restore
from walker import walk

from pybak.errors import NotFoundError, WrongPasswordError
from pybak.formats.archive import Limits, TooLargeError
from pybak.options import RestoreOptions
from pybak.problems import DAMAGED, STORAGE, WRONG_PASSWORD
from pybak.restore.run import RestoreRun


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with a bit of everything."""
    return sample(tmp_path / "source" / "docs")


@pytest.fixture
def chain(docs: Path, tmp_path: Path) -> Chain:
    """Three states of it: changed, with some gone, with a folder in a file's place."""
    return edited(Chain(docs, tmp_path / "archives"))


def damage(archive: Path, wanted: bytes) -> None:
    """Turn a bit of the first place where these bytes stand."""
    data = bytearray(archive.read_bytes())
    at = data.index(wanted)
    data[at] ^= 1
    archive.write_bytes(data)


class TestLoss:
    """What other archives hold comes back, and each file that is missing is named (case 109)."""

    def lost_files(self, chain: Chain) -> set[str]:
        """Give the files and links that only the first archive is asked for."""
        names = chain.snapshot()[0].names or ()
        return {
            os.fsdecode(name) for name in names if not stat.S_ISDIR(chain.states[-1][name].kind)
        }

    @pytest.mark.parametrize("trouble", ["gone", "cut", "other"])
    def test_the_others_give_what_they_have(
        self, chain: Chain, tmp_path: Path, trouble: str
    ) -> None:
        path = chain.archives[0].path
        if trouble == "gone":
            path.unlink()
        elif trouble == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        else:
            path.write_bytes(b"no archive at all")
        lost = self.lost_files(chain)
        result = restore(chain.snapshot(), tmp_path / "target")
        files = {problem.path for problem in result.problems if problem.path in lost}
        assert files == lost
        assert result.failed == len(lost)
        assert set(result.codes.values()) == {STORAGE if trouble == "gone" else DAMAGED}
        assert all(path.name in problem.message for problem in result.problems)
        found = walk(tmp_path / "target")
        for name, expected in chain.states[-1].items():
            if os.fsdecode(name) not in lost and not stat.S_ISDIR(expected.kind):
                assert found[name]._replace(names=()) == expected
        assert foretell(chain.snapshot(), tmp_path / "other")[2] == len(lost)

    def test_only_files_that_were_asked_for_are_missed(self, chain: Chain, tmp_path: Path) -> None:
        chain.archives[0].path.unlink()
        result = restore(chain.snapshot(), tmp_path / "target", include=["a.txt", "c.txt"])
        assert result.codes == {"docs/sub/c.txt": STORAGE}
        assert result.counts == (1, 0, 1)

    def test_the_report_is_partial(self, chain: Chain, tmp_path: Path) -> None:
        chain.archives[0].path.unlink()
        with RestoreRun(chain.snapshot(), str(tmp_path / "t"), RestoreOptions()) as run:
            report = run.rehearse()
        assert report.exit_code == 3
        assert report.files.failed == len(self.lost_files(chain))
        assert report.archive == str(chain.archives[-1].path)
        assert report.to_json()["archives"] == [str(made.path) for made in chain.archives]

    def test_a_volume_that_is_missing_is_a_lost_archive(self, docs: Path, tmp_path: Path) -> None:
        chain = edited(Chain(docs, tmp_path / "archives", split="64KiB"))
        chain.archives[0].files[0].unlink()
        result = restore(chain.snapshot(), tmp_path / "target")
        assert set(result.codes.values()) == {STORAGE}
        assert result.failed == len(self.lost_files(chain))

    @pytest.mark.parametrize("archives", [1, 3])
    def test_nothing_at_all_is_an_error_as_it_is_for_one_archive(
        self, chain: Chain, tmp_path: Path, archives: int
    ) -> None:
        for made in chain.archives:
            made.path.unlink()
        snapshot = chain.snapshot()[:archives]
        with pytest.raises(NotFoundError, match="no longer there"):
            restore(snapshot, tmp_path / "target")
        assert not (tmp_path / "target").exists()

    def test_what_an_archive_lacks_though_it_was_recorded_is_named(
        self, chain: Chain, tmp_path: Path
    ) -> None:
        snapshot = [
            share(chain.archives[0], "docs/sub/c.txt", "docs/never.txt"),
            share(chain.archives[1], "docs/a.txt"),
        ]
        result = restore(snapshot, tmp_path / "target")
        assert result.codes == {"docs/never.txt": DAMAGED}
        assert result.counts == (2, 0, 1)

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_damaged_member_is_the_only_one_missed(
        self, docs: Path, tmp_path: Path, kind: str
    ) -> None:
        chain = edited(Chain(docs, tmp_path / "archives", **HOW[kind]))
        damage(chain.archives[1].path, noise(100_000)[5000:5100] if kind == "tar" else b"new")
        names = {0: [b"docs/sub/c.txt"], 1: [b"docs/noise", b"docs/sub/new.txt"]}
        result = restore(chain.shares(names), tmp_path / "target")
        # The piece that it lies in may have damaged the attributes of others, too.
        assert len(result.codes.keys() - {""}) == 1
        assert ("" in result.codes) == (kind == "tar")
        assert result.counts == (2, 0, 1)


class TestPasswords:
    """One password is tried for each archive."""

    def test_a_wrong_one_names_the_archive_before_anything_is_written(
        self, docs: Path, tmp_path: Path
    ) -> None:
        """An archive that is not encrypted does not make it a right one."""
        how = [{}, {"password": PASSWORD}, {"password": b"another one"}]
        chain = edited(Chain(docs, tmp_path / "archives"), *how)
        for password in (b"a third one", None):
            with pytest.raises(WrongPasswordError, match=chain.archives[1].path.name):
                restore(chain.snapshot(), tmp_path / "target", password=password)
        assert not (tmp_path / "target").exists()

    @pytest.mark.parametrize("kind", ["zip", "wrapped"])
    def test_one_that_opens_some_archives_restores_what_they_hold(
        self, docs: Path, tmp_path: Path, kind: str
    ) -> None:
        passwords = [PASSWORD, PASSWORD, b"another one"]
        how = [HOW[kind] | {"password": password} for password in passwords]
        chain = edited(Chain(docs, tmp_path / "archives"), *how)
        for password, locked in ((PASSWORD, [2]), (b"another one", [0, 1])):
            target = tmp_path / f"target-{len(locked)}"
            result = restore(chain.snapshot(), target, password=password)
            shares = chain.snapshot()
            missing = {
                os.fsdecode(name)
                for number in locked
                for name in shares[number].names or ()
                if not stat.S_ISDIR(chain.states[-1][name].kind)
            }
            assert {name for name in result.codes if name in missing} == missing
            assert set(result.codes.values()) == {WRONG_PASSWORD}
            assert result.failed == len(missing)
            found = walk(target)
            for name, expected in chain.states[-1].items():
                if not stat.S_ISDIR(expected.kind):
                    text = os.fsdecode(name)
                    assert (found.get(name) is None) == (text in missing), text

    def test_archives_that_are_not_needed_are_not_opened_by_it(
        self, docs: Path, tmp_path: Path
    ) -> None:
        how = [{}, {"password": PASSWORD}, {"password": b"another one"}]
        chain = edited(Chain(docs, tmp_path / "archives"), *how)
        include = ["docs/a.txt", "docs/sub/c.txt"]
        result = restore(chain.snapshot(), tmp_path / "t", include=include, password=PASSWORD)
        assert (result.restored, result.problems) == (2, [])
        result = restore(chain.snapshot(), tmp_path / "u", include=["docs/sub/c.txt"])
        assert (result.restored, result.problems) == (1, [])


class TestLimits:
    """Limits against bombs are for the sum (decision 18)."""

    def test_archives_may_not_unpack_to_more_in_all_than_one_may(
        self, docs: Path, tmp_path: Path
    ) -> None:
        write(docs / "zeros", bytes(3_000_000))
        chain = edited(Chain(docs, tmp_path / "archives"))
        one, two = chain.shares({0: [b"docs/zeros"], 2: [b"docs/zeros"]})
        size = max(made.path.stat().st_size for made in chain.archives)
        limits = Limits(free_size=4_000_000, ratio=2_000_000 / size)
        restore([one], tmp_path / "one", limits=limits)
        restore([two], tmp_path / "one", limits=limits, overwrite="always")
        with pytest.raises(TooLargeError, match=r"2 archives.*--max-ratio"):
            restore([one, two], tmp_path / "target", limits=limits)
        assert not (tmp_path / "target").exists()

    def test_archives_may_not_hold_more_members_in_all_than_one_may(
        self, docs: Path, tmp_path: Path
    ) -> None:
        chains = [Chain(docs / name, tmp_path / "archives") for name in ("empty", "sub")]
        for chain in chains:
            for number in range(5):
                write(chain.source / f"{number}", "x")
            chain.save()
        snapshot = [share for chain in chains for share in chain.snapshot()]
        restore(snapshot, tmp_path / "one", limits=Limits(members=20))
        with pytest.raises(TooLargeError, match=r"2 archives.*--max-members"):
            restore(snapshot, tmp_path / "target", limits=Limits(members=12))
        assert not (tmp_path / "target").exists()

    def test_one_archive_that_holds_too_many_stops_all(self, chain: Chain, tmp_path: Path) -> None:
        """It is for whoever restores to trust it; nothing is half done."""
        with pytest.raises(TooLargeError, match="--max-members"):
            restore(chain.snapshot(), tmp_path / "target", limits=Limits(members=5))
