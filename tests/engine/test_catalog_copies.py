"""Archives that lie in more than one place: what the catalog knows, and who reads which."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from backing_up import PASSWORD
from catalogs import query
from pruning import T0, Shelf
from recorded import Recorded

from pybak.catalog.copies import (
    StoredCopy,
    add_copies,
    archive_at,
    drop_copy,
    move_place,
    places,
)
from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.models import Verification
from pybak.catalog.removal import finish_removal, taken_places
from pybak.catalog.verifications import VerificationLog
from pybak.cli.found import known_places
from pybak.errors import WrongPasswordError
from pybak.locate import names_of
from pybak.restore.ask import ask
from pybak.verify.targets import find_targets
from pybak.volumes.model import Volume, VolumePart

PART = VolumePart(size=1000, sha256="b" * 64)


def copy_at(name: str, *, size: int = 1000) -> StoredCopy:
    return StoredCopy(name=name, volumes=[Volume(uri=name, size=size, parts=(PART,))])


@pytest.fixture
def shelf(tmp_path: Path, any_catalog: str) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "shelf", any_catalog)
    yield shelf
    shelf.database.close()


def facts(shelf: Shelf) -> ArchiveFacts:
    (found,) = shelf.history.archives_of_job("docs")
    return found


def test_copies_are_listed_behind_the_first_place_in_their_order(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    known = facts(shelf)
    assert known.copies == ()
    with shelf.database.transaction() as connection:
        add_copies(connection, known.id, [copy_at("s3://far/z.zip"), copy_at("gs://away/a.zip")])
    found = facts(shelf)
    assert names_of(found) == (known.name, "s3://far/z.zip", "gs://away/a.zip")
    first, second, third = places(found)
    assert first == known
    assert (second.id, second.run_id, second.size) == (known.id, known.run_id, 1000)
    assert [(one.uri, one.parts) for one in third.volumes] == [
        ("gs://away/a.zip", ((1000, "b" * 64),))
    ]


def test_a_place_that_is_known_is_not_added_twice(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    known = facts(shelf)
    for size in (1000, 2000):
        with shelf.database.transaction() as connection:
            add_copies(connection, known.id, [copy_at("s3://b/x.zip", size=size)])
            add_copies(connection, known.id, [copy_at(known.name)])
    (copy,) = facts(shelf).copies
    assert [one.size for one in copy.volumes] == [2000]
    assert facts(shelf).volumes == known.volumes


def test_a_copy_can_be_dropped(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    with shelf.database.transaction() as connection:
        add_copies(connection, facts(shelf).id, [copy_at("s3://b/x"), copy_at("s3://c/x")])
    with shelf.database.transaction() as connection:
        drop_copy(connection, facts(shelf).copies[0].id)
        drop_copy(connection, 4711)
    assert [one.name for one in facts(shelf).copies] == ["s3://c/x"]
    assert query(shelf.url, "SELECT uri FROM copy_volume") == [("s3://c/x",)]


def test_an_archive_is_found_by_any_of_its_places(shelf: Shelf) -> None:
    snapshot = shelf.add({"a": 1})
    known = facts(shelf)
    with shelf.database.transaction() as connection:
        add_copies(connection, known.id, [copy_at("s3://b/x.zip")])
        for name in (known.name, "s3://b/x.zip"):
            assert archive_at(connection, snapshot.run_id, name) == known.id
    with (
        pytest.raises(CatalogError, match="does not know s3://other/"),
        shelf.database.transaction() as connection,
    ):
        archive_at(connection, snapshot.run_id, "s3://other/x.zip")


def test_a_move_makes_another_first_place_and_keeps_the_old_one_until_it_is_gone(
    shelf: Shelf,
) -> None:
    snapshot = shelf.add({"a": 1})
    old = facts(shelf)
    checked = Verification(
        archive=old.name, run_id="check", checked_at=T0, status="success", percent=50, slices=2
    )
    with shelf.database.writing() as session:
        session.add(checked)
    with shelf.database.transaction() as connection:
        add_copies(connection, old.id, [copy_at("s3://b/x.zip"), copy_at("gs://c/x.zip")])
        leaving = move_place(connection, old.id, old.name, copy_at("s3://b/x.zip"))
    new = facts(shelf)
    assert names_of(new) == ("s3://b/x.zip", "gs://c/x.zip")
    assert [one.uri for one in new.volumes] == ["s3://b/x.zip"]
    assert shelf.snapshot(snapshot.run_id).archive == "s3://b/x.zip"
    with VerificationLog(shelf.url) as log:
        assert [log.next_slice(name, 2) for name in ("s3://b/x.zip", old.name)] == [1, 0]
    # What is leaving is still deleted by whoever deletes everything.
    assert [one.name for one in places(new)] == ["s3://b/x.zip", "gs://c/x.zip", old.name]
    assert places(new)[2].volumes == old.volumes
    assert old.name not in [one.name for one in places(new, with_leaving=False)]
    with shelf.database.transaction() as connection:
        drop_copy(connection, leaving)
    assert [one.name for one in places(facts(shelf))] == ["s3://b/x.zip", "gs://c/x.zip"]


def test_a_copy_that_moves_leaves_the_first_place_alone(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    old = facts(shelf)
    with shelf.database.transaction() as connection:
        add_copies(connection, old.id, [copy_at("s3://b/x.zip")])
        move_place(connection, old.id, "s3://b/x.zip", copy_at("gs://c/x.zip"))
    new = facts(shelf)
    assert names_of(new) == (old.name, "gs://c/x.zip")
    assert [one.is_leaving for one in new.copies] == [True, False]


def test_what_is_removed_takes_its_copies_along(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    shelf.add({"b": 1})
    gone, stays = shelf.history.archives_of_job("docs")
    with shelf.database.transaction() as connection:
        for one in (gone, stays):
            add_copies(connection, one.id, [copy_at(f"s3://b/{one.id}")])
    finish_removal(shelf.database, [gone.id])
    assert query(shelf.url, "SELECT archive_id FROM archive_copy") == [(stays.id,)]
    assert query(shelf.url, "SELECT uri FROM copy_volume") == [(f"s3://b/{stays.id}",)]


def test_a_copys_place_can_be_taken_by_a_later_archive(shelf: Shelf) -> None:
    shelf.add({"a": 1})
    shelf.add({"b": 1})
    first, second = shelf.history.archives_of_job("docs")
    with shelf.database.transaction() as connection:
        add_copies(connection, first.id, [copy_at("s3://b/x")])
        add_copies(connection, second.id, [copy_at("s3://b/x")])
    assert taken_places(shelf.database, "docs") == {first.id: frozenset({"s3://b/x"})}


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["plain", "encrypted"])
def test_what_lost_its_first_place_is_read_from_a_copy(
    tmp_path: Path, password: bytes | None
) -> None:
    """And the next run goes on from there."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    source = tmp_path / "docs"
    source.mkdir()
    (source / "a").write_bytes(b"one")
    made = Recorded(url, tmp_path / "to")
    made.back_up(source, password=password)
    path = made.outcomes[0].path
    (tmp_path / "second").mkdir()
    copy = shutil.copy(path, tmp_path / "second")
    database = Database(url)
    (known,) = History(database).archives_of_job("docs")
    with database.transaction() as connection:
        uri = Path(copy).as_uri()
        volumes = [Volume(uri=uri, size=known.size, sha256=known.volumes[0].sha256)]
        add_copies(connection, known.id, [StoredCopy(name=str(copy), volumes=volumes)])
    database.close()

    def read() -> list[str]:
        asked = ask("latest", job="docs", at=None, catalog_url=url)
        shares = asked.shares(url)
        assert {one.trouble for one in shares} == {None}
        assert [one.size for one in shares] == [known.size]
        targets = find_targets(["latest"], job="docs", catalog_url=url)
        assert [one.name for one in targets] == [one.archive for one in shares]
        return [one.archive for one in shares]

    assert read() == [str(path)]
    path.unlink()
    assert read() == [str(copy)]
    database = Database(url)
    assert [one.facts for one in known_places(database, "docs")] == [facts_of(database)]
    assert made.back_up(source, password=password).report.status == "unchanged"
    if password is not None:
        (source / "a").write_bytes(b"two")
        with pytest.raises(WrongPasswordError, match="another password"):
            made.back_up(source, password=b"other")
    database.close()
    Path(copy).unlink()
    (share,) = ask("latest", job="docs", at=None, catalog_url=url).shares(url)
    assert share.archive == str(path)
    assert "no longer there" in str(share.trouble)
    done = made.back_up(source, password=password)
    assert (done.report.status, done.report.history.mode) == ("partial", "full")


def facts_of(database: Database) -> ArchiveFacts:
    (found,) = History(database).archives_of_job("docs")
    return found
