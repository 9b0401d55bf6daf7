"""Check and search whole backups: all archives that one lies in, not its own alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
from backing_up import PASSWORD, prose
from looking import look, parsed
from recorded import Recorded

from pybak.errors import NotFoundError, PlanError
from pybak.options import VerifyOptions
from pybak.report import VerifyReport
from pybak.verify.check import verify_batch
from pybak.verify.run import VerifyRun
from pybak.verify.targets import find_targets, lasting_name


class Chain:
    """Four runs of a job; nothing of the second one's archive counts any more."""

    def __init__(self, place: Path, url: str, password: bytes | None = None) -> None:
        self.url = url
        self.made = Recorded(url, place / "to")
        tree = place / "docs"
        tree.mkdir()
        for number in range(4):
            (tree / "all").write_bytes(prose(2000, number))
            (tree / f"only {number}").write_bytes(prose(500, number))
            if number == 2:
                (tree / "only 1").unlink()
            self.made.back_up(tree, password=password)

    @property
    def ids(self) -> list[str]:
        return [one.report.run_id or "" for one in self.made.outcomes]

    @property
    def files(self) -> list[Path]:
        return [one.files[0] for one in self.made.outcomes if one.files]

    def targets(self, *names: str) -> list[str]:
        found = find_targets(names, job=None, catalog_url=self.url)
        return [one.name for one in found]

    def names(self, *numbers: int) -> list[str]:
        return [str(self.files[number]) for number in numbers]

    def verify(self, *names: str) -> VerifyReport:
        """Do what the flow does."""
        with VerifyRun(VerifyOptions(workers=1), catalog_url=self.url) as run:
            checks = []
            for number, one in enumerate(find_targets(names, job=None, catalog_url=self.url)):
                if one.volumes is None:
                    assert one.trouble is not None
                    checks.append(run.unreadable(one.name, number, one.trouble))
                    continue
                plan = run.plan(one.volumes, number, run_id=one.run_id)
                results = [verify_batch(batch) for batch in plan.batches]
                checks.append(run.check(one.volumes, number, plan, results))
            return run.report(checks)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    given = f"sqlite:///{tmp_path}/home/catalog.db"
    monkeypatch.setenv("PYBAK_CATALOG_URL", given)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return given


@pytest.fixture
def chain(tmp_path: Path, url: str) -> Chain:
    return Chain(tmp_path, url)


# ---- verify


def test_a_backup_means_every_archive_that_it_needs(chain: Chain) -> None:
    assert chain.targets("latest") == chain.names(0, 2, 3)
    assert chain.targets(chain.ids[0]) == chain.names(0)
    assert chain.targets(chain.ids[1][:8]) == chain.names(0, 1)
    assert chain.targets(str(chain.files[3])) == chain.names(3)


def test_an_archive_of_a_run_without_its_manifest_is_not_whole(chain: Chain) -> None:
    """As one whose end was never written, where all that is left looks well."""
    path = chain.files[3]
    with zipfile.ZipFile(path) as archive:
        left = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in list(left)[:-1]:
            archive.writestr(name, left[name])
    for asked in ("latest", str(path)):
        *others, last = chain.verify(asked).archives
        assert [one.status for one in others] == ["success"] * len(others)
        assert last.status == "damaged"
        assert f"lacks the manifest that run {chain.ids[3]} wrote" in str(last)


def test_each_archive_is_checked_once_whoever_names_it(chain: Chain) -> None:
    names = ["latest", chain.ids[1], str(chain.files[2]), chain.ids[3], str(chain.files[0])]
    assert chain.targets(*names) == chain.names(0, 2, 3, 1)
    assert chain.targets(*reversed(names)) == chain.names(0, 2, 3, 1)


def test_a_run_that_found_nothing_new_means_the_backup_that_it_found(
    chain: Chain, tmp_path: Path
) -> None:
    done = chain.made.back_up(tmp_path / "docs").report
    assert done.status == "unchanged"
    assert chain.targets(done.run_id or "") == chain.names(0, 2, 3)


def test_what_is_named_now_is_meant_later(chain: Chain, tmp_path: Path) -> None:
    name = lasting_name("latest", job=None, catalog_url=chain.url)
    before = chain.targets("latest")
    (tmp_path / "docs" / "more").write_bytes(b"more")
    chain.made.back_up(tmp_path / "docs")
    assert chain.targets(name) == before != chain.targets("latest")
    path = str(chain.files[1])
    assert lasting_name(path, job=None, catalog_url=chain.url) == path
    assert lasting_name("missing.zip", job=None, catalog_url=chain.url) == "missing.zip"


def test_damage_anywhere_in_the_chain_is_found(chain: Chain) -> None:
    assert chain.verify("latest").status == "success"
    data = bytearray(chain.files[0].read_bytes())
    data[data.index(b"docs/only 0") + 60] ^= 1
    chain.files[0].write_bytes(data)
    report = chain.verify("latest")
    assert (report.status, report.exit_code) == ("failed", 1)
    assert [one["archive"] for one in report.to_json()["archives"]] == chain.names(0, 2, 3)
    assert [one.status for one in report.archives] == ["damaged", "success", "success"]
    assert report.archives[0].to_json()["damaged"] == ["docs/only 0"]


def test_parts_of_a_backup_are_not_told_to_be_parts(chain: Chain) -> None:
    assert all(one.notes == () for one in chain.verify("latest").archives)
    (alone,) = chain.verify(str(chain.files[3])).archives
    assert alone.notes[0].startswith("it holds only what changed since run ")


def test_a_missing_archive_of_the_chain_is_named_beside_the_others(chain: Chain) -> None:
    chain.files[0].unlink()
    report = chain.verify("latest")
    assert report.exit_code == 10
    assert [one.status for one in report.archives] == ["failed", "success", "success"]
    assert str(chain.files[0]) in (report.archives[0].message or "")
    # One that nothing needs may go.
    chain.files[1].unlink()
    assert len(chain.targets("latest")) == 3


def test_a_single_archive_that_is_missing_ends_the_command(chain: Chain) -> None:
    chain.files[0].unlink()
    with pytest.raises(NotFoundError, match="no longer there; put it back"):
        chain.targets(chain.ids[0])
    with pytest.raises(NotFoundError, match=r"missing\.zip"):
        chain.targets("missing.zip")
    assert len(chain.targets("missing.zip", "other.zip")) == 2


def test_another_archive_in_the_place_of_one_is_damage_to_the_backup(chain: Chain) -> None:
    """A restore refuses it; by its path it is a whole archive, with a note."""
    shutil.copy(chain.files[1], chain.files[0])
    report = chain.verify("latest")
    assert [one.status for one in report.archives] == ["damaged", "success", "success"]
    assert f"the backup needs that of run {chain.ids[0]}" in (report.archives[0].message or "")
    (alone,) = chain.verify(str(chain.files[0])).archives
    assert alone.status == "success"
    assert any("the catalog knows the one of run" in note for note in alone.notes)


def test_latest_of_several_jobs_is_asked_back(chain: Chain, tmp_path: Path) -> None:
    other = Recorded(chain.url, tmp_path / "to", job="other")
    other.now = chain.made.now
    other.back_up(tmp_path / "docs")
    with pytest.raises(PlanError, match="latest of which job"):
        chain.targets("latest", "missing.zip")
    found = find_targets(["latest"], job="docs", catalog_url=chain.url)
    assert [one.name for one in found] == chain.names(0, 2, 3)


# ---- find


def hits(found: dict[str, object]) -> dict[str, list[str]]:
    archives: list[dict[str, object]] = found["archives"]  # type: ignore[assignment]
    return {
        os.path.basename(str(one["archive"])): [m["path"] for m in one["members"]]  # type: ignore[attr-defined]
        for one in archives
    }


def test_find_searches_the_whole_backup_and_names_the_archive_of_each_hit(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parsed(capsys, "find", "o*", "latest")
    assert hits(found) == {
        chain.files[3].name: ["docs/only 3"],
        chain.files[2].name: ["docs/only 2"],
        chain.files[0].name: ["docs/only 0"],
    }
    assert found["total"] == {"members": 3, "archives": 3, "searched": 3}
    assert [one["run_id"] for one in found["archives"]] == [chain.ids[n] for n in (3, 2, 0)]
    # A version that an earlier backup had is not in this one.
    found = parsed(capsys, "find", "all", chain.ids[1])
    assert hits(found) == {chain.files[1].name: ["docs/all"]}
    code, out, _ = look(capsys, "find", "o*", "latest")
    assert code == 0
    assert [line for line in out.splitlines() if line.endswith(":")] == [
        f"{chain.files[number]}:" for number in (3, 2, 0)
    ]


def test_find_in_an_archive_named_by_its_path_looks_into_that_one_alone(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    found = parsed(capsys, "find", "o*", str(chain.files[3]))
    assert hits(found) == {chain.files[3].name: ["docs/only 3"]}


def test_find_says_where_nothing_is(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = look(capsys, "find", "only 1", "latest")
    assert (code, out) == (3, "")
    assert "matches no member" in err


def test_what_lies_in_an_archive_that_is_gone_is_told(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.files[2].unlink()
    code, out, err = look(capsys, "find", "o*", "latest", "--json")
    assert code == 10
    assert json.loads(out)["total"]["members"] == 3
    assert err == f"pybak: {chain.files[2]}: the archive is no longer there; put it back\n"
    assert look(capsys, "find", "only 0", "latest")[0] == 0


def test_find_in_an_encrypted_backup_needs_no_password(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The catalog knows what is in it."""
    chain = Chain(tmp_path, url, PASSWORD)
    found = parsed(capsys, "find", "only 0", "latest")
    assert hits(found) == {chain.files[0].name: ["docs/only 0"]}
    assert found["archives"][0]["encrypted"] is True


# ---- list


def test_list_of_a_run_shows_the_members_of_its_backup(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = parsed(capsys, "list", chain.ids[3])
    assert [one["path"] for one in listed["members"]] == [
        "docs", "docs/all", "docs/only 0", "docs/only 2", "docs/only 3",
    ]  # fmt: skip
    assert listed["archives"] == chain.names(0, 2, 3)
    listed = parsed(capsys, "list", str(chain.files[3]))
    assert [one["path"] for one in listed["members"]] == ["docs", "docs/all", "docs/only 3"]
