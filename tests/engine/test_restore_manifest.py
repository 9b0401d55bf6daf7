"""Members that a good manifest contradicts, or knows nothing of, are named and not restored."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import archives as forge
import pytest
from restoring import foretell, restore, tree

from pybak.formats import manifest
from pybak.problems import DAMAGED

MEMBERS = [
    forge.folder(b"d"),
    forge.file(b"d/f", b"good"),
    forge.link(b"d/l", b"f"),
]


def changed(path: Path, members: list[forge.Forged]) -> bytes:
    """Write an archive of `members` with the manifest of MEMBERS."""
    own = forge.Forged(manifest.MEMBER_NAME, forge.manifest_bytes(MEMBERS), 0o100600)
    return forge.write(path, [*members, own])


def test_what_agrees_is_restored(zip_path: Path, target: Path) -> None:
    assert restore(changed(zip_path, MEMBERS), target).problems == []


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ([*MEMBERS, forge.file(b"d/new", b"evil")], "d/new"),
        ([*MEMBERS, forge.link(b"d/new", b"/etc/passwd")], "d/new"),
        ([*MEMBERS, forge.folder(b"new")], "new"),
        ([MEMBERS[0], forge.file(b"d/f", b"evil content"), MEMBERS[2]], "d/f"),
        ([MEMBERS[0], replace(MEMBERS[1], mode=0o104755), MEMBERS[2]], "d/f"),
    ],
)
def test_what_the_manifest_does_not_know_is_not_restored(
    zip_path: Path, target: Path, members: list[forge.Forged], path: str
) -> None:
    """Added or changed behind its back, also where all else is encrypted (case 65)."""
    archive = changed(zip_path, members)
    foretell(archive, target)
    result = restore(archive, target)
    assert result.codes == {path: DAMAGED}
    assert os.fsencode(path) not in tree(target)
    assert (target / "d/l").is_symlink()


def test_a_link_that_points_elsewhere_is_not_made(zip_path: Path, target: Path) -> None:
    """The content of a link has no digest of its own; the manifest tells it (case 65)."""
    archive = changed(zip_path, [*MEMBERS[:2], forge.link(b"d/l", b"/")])
    result = restore(archive, target)
    assert result.codes == {"d/l": DAMAGED}
    assert "points elsewhere" in result.problems[0].message
    assert tree(target).keys() == {b"d", b"d/f"}


def test_without_a_manifest_all_is_restored(zip_path: Path, target: Path) -> None:
    assert restore(forge.write(zip_path, MEMBERS), target).problems == []


def test_nothing_is_deleted_for_a_changed_archive(zip_path: Path, target: Path) -> None:
    (target / "d").mkdir(parents=True)
    (target / "d/mine").write_bytes(b"mine")
    archive = changed(zip_path, [*MEMBERS, forge.file(b"d/new", b"evil")])
    result = restore(archive, target, deletes=True)
    assert (result.deleted, (target / "d/mine").exists()) == (0, True)
    assert result.codes == {"d/new": DAMAGED, "": DAMAGED}
