"""What a backup decides before it looks at the first file: format, encryption, places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pybak.backup.run import BackupRun
from pybak.backup.settings import archive_format
from pybak.errors import PlanError
from pybak.options import BackupOptions


def run(tmp_path: Path, **more: Any) -> BackupRun:
    source = tmp_path / "src"
    source.mkdir(exist_ok=True)
    (source / "a").write_text("a")
    known = {name: more.pop(name) for name in ("password", "scratch", "encrypted") if name in more}
    output = more.pop("output", None)
    to = None if output else str(tmp_path / "out")
    return BackupRun(
        [str(source)], output=output, to=to, job=None, options=BackupOptions(**more), **known
    )


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        (None, {}, "zip"),
        ("x", {}, "zip"),
        ("x.tgz", {}, "tar.gz"),
        ("x.TAR.ZST", {}, "tar.zst"),
        ("x.tbz2", {"format": "zip"}, "tar.bz2"),
        ("x", {"format": "tar"}, "tar"),
        ("x.tar.gz", {"format": "tar.gz"}, "tar.gz"),
    ],
)
def test_the_name_decides_where_nothing_else_was_asked_for(
    output: str | None, options: dict[str, Any], expected: str
) -> None:
    assert archive_format(BackupOptions(**options), output) == expected


def test_a_name_that_contradicts_the_format_is_refused() -> None:
    with pytest.raises(PlanError, match=r"ends with \.tar\.gz"):
        archive_format(BackupOptions(format="tar.gz"), "x.tar.zst")


def test_names_are_hidden_only_with_a_password(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="needs a password"):
        run(tmp_path, hide_names=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["tcp://host:8786", "tls://host:8786"])
def test_a_typed_password_never_goes_to_workers_over_the_network(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(PlanError, match="password-block"):
        run(tmp_path, cluster=address, password=b"correct horse")
    with run(tmp_path, cluster=address, password=b"correct horse", password_block="archives"):
        pass


@pytest.mark.parametrize("wanted", ["zip", "tar.zst"])
def test_a_rehearsal_knows_of_a_password_without_having_it(tmp_path: Path, wanted: str) -> None:
    """Nothing is made, and the name that would be taken is looked at (case 86)."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with run(tmp_path, format=wanted, scratch=scratch, encrypted=True, hide_names=True) as planned:
        assert planned.is_wrapped
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_would_be_written(tmp_path: Path) -> None:
    """The name with its wrapper, the format, and what comes of -p, --split and --checksum."""
    with run(
        tmp_path, scratch=tmp_path, encrypted=True, output=str(tmp_path / "x.tar"), format="tar",
        checksum=["sha256"],
    ) as made:  # fmt: skip
        kept = made.filter(made.discover())
        whole = made.plan_summary(made.plan(kept), kept)
    assert whole.destination == str(tmp_path / "x.tar.zip")
    value = whole.to_json()
    assert (value["format"], value["encrypted"]) == ("tar", True)
    assert (value["plan"]["split"], value["plan"]["checksums"]) == (None, ["sha256"])
    for line in ("Format       tar", "Encrypted    AES-256", "Checksums    sha256"):
        assert line in whole.to_text()
    scratch = tmp_path / "more"
    scratch.mkdir()
    with run(tmp_path, scratch=scratch, output=str(tmp_path / "y.zip"), split="100MB") as made:
        kept = made.filter(made.discover())
        cut = made.plan_summary(made.plan(kept), kept)
    assert "Volumes      of at most 100 MB" in cut.to_text()
    assert (cut.to_json()["plan"]["split"], cut.encrypted) == (100_000_000, False)


@pytest.mark.parametrize("tag", ["a,b", "", " "])
def test_a_tag_that_prune_could_not_name_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="is no tag"):
        BackupOptions(tag=[tag])
