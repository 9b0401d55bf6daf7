"""Tar archives in volumes: what does not belong, or is missing, is named."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tars
from tar_reading import (
    NOISE,
    SUFFIXES,
    contents,
)

from pybak.errors import ArchiveError
from pybak.formats.archive import Limits
from pybak.formats.source import FileSource, JoinedSource
from pybak.formats.tar_reader import TarFile


class TestVolumes:
    """A volume that does not belong is named."""

    @pytest.fixture
    def cut(self, tmp_path: Path) -> Callable[..., list[bytes]]:
        def cut(suffix: str, seed: int = 1, size: int = 40_000) -> list[bytes]:
            rng = random.Random(seed)
            items = [tars.file(b"%d" % number, rng.randbytes(9000)) for number in range(20)]
            data = tars.build(items, suffix)
            return [data[at : at + size] for at in range(0, len(data), size)]

        return cut

    def joined(self, tmp_path: Path, parts: list[bytes], suffix: str) -> TarFile:
        sources = []
        for number, part in enumerate(parts, 1):
            path = tmp_path / f"x.{suffix}.{number:03d}"
            path.write_bytes(part)
            sources.append(FileSource(os.fsencode(path)))
        source = JoinedSource(sources, label=f"x.{suffix}")
        return TarFile(source, suffix.removeprefix("tar.") or "tar", name=b"x")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_volumes_of_one_archive_are_fine(
        self, tmp_path: Path, suffix: str, cut: Callable[..., list[bytes]]
    ) -> None:
        with self.joined(tmp_path, cut(suffix), suffix) as archive:
            listing = archive.listing(Limits())
            assert listing.problems == []
            assert len(contents(archive, listing.members)) == 20

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_swapped_and_foreign_volumes_are_named(
        self, tmp_path: Path, suffix: str, cut: Callable[..., list[bytes]]
    ) -> None:
        """(case 61)"""
        parts = cut(suffix)
        parts[1], parts[2] = parts[2], parts[1]
        with self.joined(tmp_path, parts, suffix) as archive:
            told = [problem.message for problem in archive.listing(Limits()).problems]
        assert [text.split()[0].rpartition("/")[2] for text in told] == [
            f"x.{suffix}.002", f"x.{suffix}.003",
        ]  # fmt: skip
        parts = cut(suffix)
        parts[0] = cut(suffix, seed=2)[0]
        with self.joined(tmp_path, parts, suffix) as archive:
            listing = archive.listing(Limits())
            (problem,) = listing.problems
            assert f"x.{suffix}.001 does not belong here" in problem.message
            bad = good = 0
            for one in listing.members:
                try:
                    content = archive.read(one.locator, 0)
                except ArchiveError as error:
                    bad += 1
                    assert f"x.{suffix}.001" in str(error)  # noqa: PT017
                else:
                    good += hashlib.sha256(content).hexdigest() == one.sha256
            assert good >= 14
        parts = cut(suffix)
        parts[-1] = cut(suffix, seed=3)[-1]
        with self.joined(tmp_path, parts, suffix) as archive:
            assert archive.listing(Limits()).problems

    def test_a_missing_last_volume_is_told_by_what_is_missing(
        self, tmp_path: Path, cut: Callable[..., list[bytes]]
    ) -> None:
        """(cases 60, 61)"""
        for suffix in SUFFIXES:
            with self.joined(tmp_path, cut(suffix)[:-1], suffix) as archive:
                listing = archive.listing(Limits())
                assert "cut short" in listing.problems[0].message
                assert 15 <= len(listing.members) <= 20


def test_a_member_that_is_cut_short_names_the_volume_where_it_ends(tmp_path: Path) -> None:
    data = tars.build([tars.file(b"a", NOISE[:9000])], "tar")
    sources = []
    for number, start in enumerate((0, 4000), 1):
        (tmp_path / f"x.tar.{number:03d}").write_bytes(data[start : start + 4000])
        sources.append(FileSource(os.fsencode(tmp_path / f"x.tar.{number:03d}")))
    with TarFile(JoinedSource(sources, label="x.tar"), "tar", name=b"x") as archive:
        (one,) = archive.listing(Limits()).members
        with pytest.raises(ArchiveError, match=r"member a \(in x.tar.002\) is cut short"):
            archive.read(one.locator, one.limit)
