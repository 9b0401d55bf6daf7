"""Checks of a part: every member is reached after enough of them, and each is written down."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import archives as forge
import pytest
import tars
from hypothesis import given
from hypothesis import strategies as st

from pybak.catalog.runs import Catalog
from pybak.catalog.verifications import VerificationLog
from pybak.formats.listing import Spot
from pybak.options import VerifyOptions
from pybak.problems import DAMAGED
from pybak.report import ArchiveCheck
from pybak.restore.dealing import deal, slice_of
from pybak.restore.items import Item, read_batch
from pybak.verify.check import verify_batch
from pybak.verify.run import VerifyRun, slices_of

MEMBERS = [tars.file(b"f%03d" % number, b"x" * (number * 37 % 900)) for number in range(200)]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


def check(
    archive: Path, catalog: str | None, *, chance: int = 0, **options: object
) -> tuple[set[bytes], ArchiveCheck]:
    """Give the names that were read, and the result."""
    with VerifyRun(
        VerifyOptions(**options), catalog_url=catalog, choose_slice=lambda _slices: chance
    ) as run:
        plan = run.plan(archive, 0)
        names = {item.path for batch in plan.batches for item in read_batch(batch, Item)[1]}
        done = run.check(archive, 0, plan, [verify_batch(batch) for batch in plan.batches])
        assert run.report([done]).exit_code == (0 if done.status == "success" else 1)
        assert done.checked == len(names)
        return names, done


@pytest.mark.parametrize(
    ("percent", "slices"), [(5, 20), (100, 1), (33.4, 3), (33.3, 4), (0.5, 200), (60, 2)]
)
def test_so_many_checks_reach_everything(percent: float, slices: int) -> None:
    assert slices_of(percent) == slices


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
@pytest.mark.parametrize("percent", ["5%", "30", "2.6"])
def test_every_member_is_read_exactly_once_in_a_round(
    tmp_path: Path, catalog: str, kind: str, percent: str
) -> None:
    """(case 70)"""
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        members = [forge.file(item.name, item.data) for item in MEMBERS]
        forge.write(path, members, with_manifest=True)
    else:
        tars.write(path, tars.build(MEMBERS, kind))
    slices = slices_of(float(percent.rstrip("%")))
    seen: list[bytes] = []
    for number in range(slices):
        names, done = check(path, catalog, sample=percent)
        seen += names
        assert (done.members, done.notes) == (200, ())
        assert done.sample is not None
        assert (done.sample.slice, done.sample.slices) == (number, slices)
    assert sorted(seen) == [item.name for item in MEMBERS]
    assert check(path, catalog, sample=percent)[1].sample.slice == 0


def test_a_part_of_a_stream_is_one_run_of_it(tmp_path: Path, catalog: str) -> None:
    """So that few pieces are read."""
    path = tmp_path / "a"
    tars.write(path, tars.build(MEMBERS, "tar.gz"))
    for _ in range(4):
        names, _ = check(path, catalog, sample="25%")
        places = sorted(int(name[1:]) for name in names)
        assert places == list(range(places[0], places[-1] + 1))


def test_beside_a_large_member_no_part_is_empty(tmp_path: Path, catalog: str) -> None:
    members = [forge.file(b"f%02d" % number, b"x" * 50) for number in range(20)]
    members[3] = forge.file(b"f03", bytes(9_000_000))
    path = tmp_path / "a.zip"
    forge.write(path, members, with_manifest=True)
    counts = [check(path, catalog, sample="20%")[1].checked for _ in range(5)]
    assert min(counts) > 0
    assert sum(counts) == 20


def test_members_of_like_size_are_shared_out_evenly() -> None:
    items = [Item(b"%d" % at, "f", Spot(b"", at, at, 9, 9), 0, 0, 0, 1) for at in range(100)]
    assert {len(slice_of(items, number, 20)) for number in range(20)} == {5}


def test_damage_is_found_when_its_turn_comes(tmp_path: Path, catalog: str) -> None:
    members = [forge.file(b"f%02d" % number, b"x" * 50) for number in range(20)]
    members[13] = forge.file(b"f13", b"x" * 50, crc=5)
    path = tmp_path / "a.zip"
    forge.write(path, members, with_manifest=True)
    results = [check(path, catalog, sample="10%")[1] for _ in range(10)]
    assert [done.status for done in results].count("success") == 9
    (bad,) = (done for done in results if done.damaged)
    assert [(one.path, one.code) for one in bad.damaged] == [("f13", DAMAGED)]


def test_each_archive_and_each_share_has_its_own_round(tmp_path: Path, catalog: str) -> None:
    paths = [tmp_path / name for name in ("a.zip", "b.zip")]
    for path in paths:
        forge.write(path, [forge.file(b"f%d" % number, b"x") for number in range(9)])
    for expected in (0, 1):
        for path in paths:
            assert check(path, catalog, sample="20%")[1].sample.slice == expected
            assert check(path, catalog, sample="50%")[1].sample.slice == expected
            assert check(path, catalog)[1].sample is None


def test_an_empty_archive_is_no_trouble(tmp_path: Path, catalog: str) -> None:
    """(case 70)"""
    for with_manifest in (True, False):
        path = tmp_path / "a.zip"
        forge.write(path, [], with_manifest=with_manifest)
        for sample in ("5%", None):
            assert check(path, catalog, sample=sample)[1].status == "success"


@pytest.mark.parametrize("url", [None, "sqlite:////proc/nowhere/x.db", "nonsense"])
def test_without_a_catalog_chance_chooses_and_it_is_said(tmp_path: Path, url: str | None) -> None:
    path = tmp_path / "a.zip"
    forge.write(path, [forge.file(b"f%d" % number, b"x") for number in range(9)])
    done = check(path, url, sample="10%", chance=7)[1]
    assert done.sample is not None
    assert done.sample.slice == 7
    assert "chance" in done.notes[0]
    assert check(path, url)[1].notes == ()


def test_every_check_is_written_down_with_its_date(tmp_path: Path, catalog: str) -> None:
    path = tmp_path / "a.zip"
    forge.write(path, [forge.file(b"f", b"x" * 50, crc=5), forge.file(b"g", b"x")])
    before = datetime.now(UTC)
    check(path, catalog)
    with VerificationLog(catalog) as log:
        checked_at = log.last_checked(str(path))
        assert log.last_checked("other") is None
    assert checked_at is not None
    assert before <= checked_at <= before + timedelta(seconds=60)


def test_an_archive_of_another_run_is_noted(tmp_path: Path, catalog: str) -> None:
    """One swapped for another valid one (case 64)."""
    path = tmp_path / "a.tar"
    tars.write(path, tars.build(MEMBERS[:3], "tar"))
    store = Catalog(catalog)
    for run_id, expected in (("other", 1), ("r", 0)):
        now = datetime.now(UTC)
        store.begin_run(run_id, kind="backup", job="j", options={}, now=now)
        store.finish_run(run_id, status="success", counts={}, now=now, archive=str(path))
        done = check(path, catalog)[1]
        assert len(done.notes) == expected
        assert done.status == "success"
    store.close()


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(1, 30))
def test_slices_and_batches_hold_everything_once(sizes: list[int], parts: int) -> None:
    """(case 70)"""
    items, at = [], 0
    for number, size in enumerate(sizes):
        items.append(Item(b"%d" % number, "f", Spot(b"", at, at, size, size), 0, 0, 0, 1))
        at += size + 512
    slices = [slice_of(items, number, parts) for number in range(parts)]
    assert [item for some in slices for item in some] == items
    assert sum(map(bool, slices)) == min(parts, len(items))
    for in_runs in (True, False):
        batches = deal(items, parts, in_runs=in_runs)
        assert len(batches) <= parts
        dealt = [item for batch in batches for item in batch]
        assert sorted(dealt, key=lambda item: item.member.offset) == items
