"""Folders, members, searches and versions: what they show is what the snapshots hold."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overviews import Written, all_of, fact, with_folders
from sqlalchemy import Connection

from pybak.catalog.facts import Snapshot
from pybak.catalog.removal import finish_removal, mark_deleting
from pybak.errors import NotFoundError, PlanError
from pybak.overview import members, names, search, tree

HOUR = timedelta(hours=1)
LONG = [b"n" * 250, b"o" * 250, b"p" * 250]
NAMES = [
    b"a", b"a-b", b"a.txt", b"a0", b"b\xff\xfe", b"b\\xff", b"%_!", "Übung.ODT".encode(),
    "\U0010ffff".encode(), b"x" * 255, b"\xff" * 200, "é".encode() * 120,
]  # fmt: skip


@pytest.fixture
def written(any_catalog: str) -> Iterator[Written]:
    made = Written(any_catalog)
    yield made
    made.catalog.close()


def walk(
    written: Written, snapshot: Snapshot, limit: int, *, all_recorded: bool = True
) -> dict[bytes, str]:
    """Go through all folders of a snapshot; give the names that stand there, and their types."""
    found: dict[bytes, str] = {}
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        items = all_of(
            lambda cursor, folder=folder: written.overview.tree(  # type: ignore[misc]
                snapshot.job, run_id=snapshot.run_id, folder=folder, cursor=cursor, limit=limit
            )
        )
        kinds = [item.type != "folder" for item in items]
        assert kinds == sorted(kinds) or not all_recorded, "folders come first"
        for item in items:
            path = os.fsencode(item.path)
            assert path not in found, "it is there twice"
            assert path.rpartition(b"/")[0] == folder
            assert item.name == os.fsdecode(path.rpartition(b"/")[2])
            found[path] = item.type
            if item.type == "folder":
                waiting.append(path)
    return found


def held(written: Written, snapshot: Snapshot) -> dict[bytes, str]:
    kinds = {"f": "file", "d": "folder", "l": "symlink"}
    return {one.path: kinds[one.kind] for one in written.history.versions(snapshot)}


def test_a_walk_through_the_tree_meets_each_member_once(written: Written) -> None:
    """(case 47)"""
    paths = [
        b"/".join((b"docs", *above, name))
        for above in ((), (b"a",), (b"a", b"deep"), (LONG[0],), (LONG[0], LONG[1]), tuple(LONG))
        for name in NAMES
        if not (name == b"a" and above in ((), (LONG[0],)))
    ]
    full = written.back_up(with_folders(paths))
    changed = with_folders([paths[3], b"docs/new/one"], 2)
    second = written.back_up(changed, base=full, gone=[os.fsdecode(paths[5]), "docs/a/deep/a0"])
    for snapshot in (full, second):
        for limit in (1, 7, 500):
            assert walk(written, snapshot, limit) == held(written, snapshot)


@given(
    runs=st.lists(
        st.tuples(
            st.booleans(),
            st.lists(st.sampled_from(["a", "a/x", "a/y/z", "a-b", "a0", "b/c", "b/d"]), min_size=1),
            st.lists(st.sampled_from(["a", "a/x", "a/y/z", "a-b", "a0", "b/c", "b/d"])),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=20)
def test_any_history_is_shown_as_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[bool, list[str], list[str]]],
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('any')}/{uuid.uuid4().hex}.db"
    written = Written(url)
    snapshots: list[Snapshot] = []
    for number, (is_full, new, gone) in enumerate(runs, 1):
        # A name is a file or a folder, never both in one snapshot.
        paths = [p for p in dict.fromkeys(new) if not any(o.startswith(p + "/") for o in new)]
        base = None if is_full or not snapshots else snapshots[-1]
        before = {os.fsdecode(one) for one in held(written, base)} if base else set()
        records = with_folders([path.encode() for path in paths], number)
        here = {record.path for record in records}
        left = [one for one in before if one in gone and one not in here]
        left += [
            one for one in before if one not in here and any(one.startswith(p + "/") for p in paths)
        ]
        above = {one.rpartition("/")[0] for one in before - set(left)}
        left = [one for one in set(left) if one not in above]
        snapshots.append(written.back_up(records, base=base, gone=left))
    for snapshot in snapshots:
        for limit in (1, 100):
            expected = held(written, snapshot)
            shown = walk(written, snapshot, limit)
            # A file that became a folder in a later run is there as both, as the catalog says.
            assert shown.keys() == expected.keys()
    written.catalog.close()


def test_folders_that_were_not_recorded_are_shown_all_the_same(written: Written) -> None:
    """Sources of one name are told apart by the folders above, which are no members."""
    records = [
        fact("left/docs", 0, "d"), fact("left/docs/a"), fact("right/b"), fact("c"),
        fact("left-over", 0, "d"),
    ]  # fmt: skip
    snapshot = written.back_up(records)
    for limit in (1, 50):
        found = walk(written, snapshot, limit, all_recorded=False)
        pages = all_of(lambda c, n=limit: written.overview.tree("docs", cursor=c, limit=n))  # type: ignore[misc]
        assert sorted(item.path for item in pages) == ["c", "left", "left-over", "right"]
    assert found == held(written, snapshot) | {b"left": "folder", b"right": "folder"}
    (implied,) = [item for item in pages if item.path == "right"]
    assert (implied.mtime, implied.mode) == (None, None)


def test_a_folder_of_many_names_that_are_gone_costs_pages_that_are_short(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "STEPS", 20)
    full = written.back_up(with_folders([b"log/%03d" % n for n in range(90)]))
    gone = [f"log/{n:03d}" for n in range(90) if n != 70]
    written.back_up(with_folders([b"log/new"]), base=full, gone=gone)
    pages: list[int] = []
    cursor: str | None = None
    found: list[str] = []
    while True:
        page = written.overview.tree("docs", folder=b"log", cursor=cursor)
        pages.append(len(page.items))
        found += [item.name for item in page.items]
        if (cursor := page.next) is None:
            break
    assert found == ["070", "new"]
    assert len(pages) >= 4


def test_a_folder_is_asked_for_with_or_without_slashes(written: Written) -> None:
    written.back_up(with_folders([b"docs/a/b"]))
    for folder in (b"docs/a", b"/docs/a/", b"docs/a/"):
        (item,) = written.overview.tree("docs", folder=folder).items
        assert (item.path, item.size, item.mode) == ("docs/a/b", 1, "0640")
        assert item.mtime == "1970-01-01T00:00:01Z"
    assert written.overview.tree("docs", folder=b"nothing").items == ()


def test_what_is_not_there_is_told(written: Written) -> None:
    snapshot = written.back_up(with_folders([b"a"]))
    other = written.back_up(with_folders([b"a"]), "other")
    view = written.overview
    for ask in (
        lambda: view.tree("nobody"),
        lambda: view.tree("docs", run_id="nobody"),
        lambda: view.tree("docs", run_id=other.run_id),
        lambda: view.search("a", job="nobody"),
        lambda: view.versions("nobody", b"a"),
        lambda: view.members(4711),
        lambda: view.archive(4711),
        lambda: view.run("nobody"),
        lambda: view.errors("nobody"),
    ):
        with pytest.raises(NotFoundError) as told:
            ask()
        assert "\n" not in str(told.value)
    assert snapshot.run_id


@pytest.mark.parametrize("cursor", ["", "?", "AAAA", "WyJhIl0", "W10", "bnVsbA", "W251bGxd", "é"])
def test_text_that_is_no_cursor_is_refused(written: Written, cursor: str) -> None:
    snapshot = written.back_up(with_folders([b"a"]))
    number = written.archive_id(snapshot)
    view = written.overview
    asks: list[Callable[[], object]] = [
        lambda: view.tree("docs", cursor=cursor), lambda: view.search("a", cursor=cursor),
        lambda: view.versions("docs", b"a", cursor=cursor), lambda: view.runs(cursor=cursor),
        lambda: view.errors(snapshot.run_id, cursor=cursor), lambda: view.archives(cursor=cursor),
        lambda: view.snapshots(cursor=cursor), lambda: view.snapshots(job="docs", cursor=cursor),
    ]  # fmt: skip
    if cursor != "WyJhIl0":  # which is one of members: after "a"
        asks.append(lambda: view.members(number, cursor=cursor))
    for ask in asks:
        with pytest.raises(PlanError, match="no cursor of this list"):
            ask()
    with pytest.raises(PlanError, match="limit 0"):
        view.runs(limit=0)


SEARCHES = {
    "a.t": lambda name, _: b"a.t" in name.lower(),
    "A.TXT": lambda name, _: b"a.txt" in name.lower(),
    "übung": lambda name, _: "übung" in os.fsdecode(name).lower(),
    "*.odt": lambda name, _: name.lower().endswith(b".odt"),
    "a?b": lambda name, _: name == b"a-b",
    "[xp]*": lambda name, _: name[:1] in (b"x", b"p"),
    "[!a]0": lambda name, _: False,
    "%_": lambda name, _: b"%_" in name,
    "\\x": lambda name, _: b"\\x" in name,
    os.fsdecode(b"\xfe"): lambda name, _: b"\xfe" in name,
    "deep/a": lambda _, path: b"deep/a" in path,
    "docs/**/a0": lambda name, path: name == b"a0" and path.startswith(b"docs/"),
    "docs/*/a0": lambda name, path: name == b"a0" and path.count(b"/") == 2,
}


@pytest.mark.parametrize("text", SEARCHES)
def test_a_search_finds_what_matches_and_each_once(
    written: Written, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    paths = [
        b"/".join((b"docs", *above, name))
        for above in ((), (b"c",), (b"c", b"deep"), tuple(LONG))
        for name in NAMES
    ]
    first = written.back_up(with_folders(paths))
    for number in range(3):
        written.back_up(with_folders(paths[:5], 5 + number), base=first)
    written.back_up(with_folders(paths[4:8]), "more")
    expected = [
        (job, path)
        for job, some in (("docs", paths), ("more", paths[4:8]))
        for path in sorted({os.fsencode(one.path or "") for one in with_folders(some)})
        if SEARCHES[text](path.rpartition(b"/")[2], path)
    ]
    for window, limits in ((7, (4,)), (100_000, (1, 500))):
        monkeypatch.setattr(search, "WINDOW", window)
        for limit in limits:
            found = all_of(
                lambda cursor, n=limit: written.overview.search(text, cursor=cursor, limit=n)  # type: ignore[misc]
            )
            assert sorted((one.job, os.fsencode(one.member.path)) for one in found) == expected
    of_job = all_of(lambda c: written.overview.search(text, job="more", cursor=c))
    assert [one.job for one in of_job] == ["more" for job, _ in expected if job == "more"]


@pytest.mark.parametrize("text", ["", "  ", "/", "a\0b", "x" * 1001])
def test_a_search_for_nothing_or_too_much_is_refused(written: Written, text: str) -> None:
    with pytest.raises(PlanError, match="to look for"):
        written.overview.search(text)


@pytest.mark.parametrize("text", ["[", "[]", "[a", "[z-a]", "[[]", "[^]", "a[b]c]", "***", "**x"])
def test_any_pattern_finds_something_or_nothing_or_is_told(written: Written, text: str) -> None:
    written.back_up(with_folders([b"a", b"[", b"[a"]))
    try:
        written.overview.search(text)
    except PlanError as told:
        assert "\n" not in str(told)  # noqa: PT017


def test_a_search_gives_the_newest_run_that_has_it(written: Written) -> None:
    first = written.back_up(with_folders([b"d/old", b"d/here"]), ago=3 * HOUR)
    second = written.back_up(with_folders([b"d/here"], 2), base=first, ago=2 * HOUR)
    third = written.back_up(with_folders([b"d/new"]), base=second, gone=["d/old"], ago=HOUR)
    (old,) = written.overview.search("old").items
    assert (old.run_id, old.is_current) == (second.run_id, False)
    (here,) = written.overview.search("here").items
    assert (here.run_id, here.is_current, here.member.size) == (third.run_id, True, 2)
    assert here.seen_at == third.started_at


def test_what_a_prune_removed_is_not_found(written: Written) -> None:
    first = written.back_up(with_folders([b"d/old", b"d/here"]), ago=3 * HOUR)
    second = written.back_up(with_folders([b"d/here"], 2), ago=2 * HOUR)
    third = written.back_up(with_folders([b"d/here"], 3), ago=HOUR)
    view = written.overview
    database = written.catalog.database
    numbers = [written.archive_id(one) for one in (first, second, third)]
    for run, archive in ((first, numbers[0]), (third, numbers[2])):
        mark_deleting(database, "docs", runs=[run.run_id], archives=[archive])
        for is_done in (False, True):
            if is_done:
                finish_removal(database, [archive])
            assert view.search("old").items == ()
            assert view.versions("docs", b"d/old").items == ()
            assert archive not in [one.archive_id for one in view.archives().items]
            with pytest.raises(NotFoundError):
                view.tree("docs", run_id=run.run_id)
    (here,) = view.search("here").items
    assert (here.run_id, here.member.size, here.is_current) == (second.run_id, 2, True)
    (version,) = view.versions("docs", b"d/here").items
    assert (version.first_run, version.last_run) == (second.run_id, second.run_id)
    (shown,) = view.snapshots().items
    assert shown.run_id == second.run_id
    with pytest.raises(NotFoundError):
        view.members(numbers[0])


def test_versions_come_newest_first_and_name_the_runs_that_restore_them(written: Written) -> None:
    path = b"d/b\xff \\"
    first = written.back_up(with_folders([path]), ago=9 * HOUR)
    second = written.back_up(with_folders([b"d/other"]), base=first, ago=8 * HOUR)
    third = written.back_up([fact(path, 2)], base=second, ago=7 * HOUR)
    gone = written.back_up([], base=third, gone=[os.fsdecode(path)], ago=6 * HOUR)
    back = written.back_up([fact(path, 3)], base=gone, ago=5 * HOUR)
    for limit in (1, 2, 50):
        found = all_of(
            lambda c, n=limit: written.overview.versions("docs", path, cursor=c, limit=n)  # type: ignore[misc]
        )
        assert [(one.member.size, one.first_run, one.last_run) for one in found] == [
            (3, back.run_id, back.run_id),
            (2, third.run_id, third.run_id),
            (1, first.run_id, second.run_id),
        ]
        assert [one.is_current for one in found] == [True, False, False]
    assert os.fsencode(found[0].member.path) == path
    assert json.loads(json.dumps(msgspec.to_builtins(found[0])))["member"]["type"] == "file"
    assert written.overview.versions("docs", b"nothing").items == ()


@pytest.mark.parametrize("small", [0, 5000])
def test_members_are_those_of_the_archive_each_once(
    written: Written, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(members, "SMALL", small)
    paths = [b"/".join((b"docs", *above, n)) for above in ((), (b"c",), tuple(LONG)) for n in NAMES]
    records = with_folders(paths)
    full = written.back_up(records)
    base = full
    for number in range(3):
        base = written.back_up(with_folders(paths[number : number + 9], 7 + number), base=base)
    written.back_up(with_folders(paths), "other")
    number = written.archive_id(full)
    expected = sorted(os.fsencode(one.path or "") for one in records)
    for window, limits in ((6, (5,)), (20_000, (1, 500))):
        monkeypatch.setattr(members, "WINDOW", window)
        for limit in limits:

            def read(
                limit: int = limit, match: str | None = None, prefix: bytes | None = None
            ) -> list[bytes]:
                found = all_of(
                    lambda cursor: written.overview.members(
                        number, cursor=cursor, limit=limit, match=match, prefix=prefix
                    )
                )
                assert {item.size for item in found} <= {0, 1}
                return sorted(os.fsencode(item.path) for item in found)

            assert read() == expected
            inside = [one for one in expected if one.startswith(b"docs/c/")]
            assert read(prefix=b"docs/c") == inside
            assert read(prefix=b"docs/c", match="A*") == [
                one for one in inside if one.rpartition(b"/")[2].startswith(b"a")
            ]
    assert written.overview.members(written.archive_id(base), match="no such").items == ()


def plan_of(connection: Connection, ask: Callable[[], object]) -> list[str]:
    """Give how SQLite goes about each statement of a question."""
    raw = connection.connection.driver_connection
    assert raw is not None
    seen: list[str] = []
    raw.set_trace_callback(seen.append)
    ask()
    raw.set_trace_callback(None)
    return [
        row[3]
        for statement in seen
        if statement.startswith(("SELECT", "WITH"))
        for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]


def test_no_question_about_names_reads_a_whole_table_on_sqlite(tmp_path: object) -> None:
    written = Written(f"sqlite:///{tmp_path}/catalog.db")
    first = written.back_up(with_folders([b"docs/a/b", b"docs/c"]))
    snapshot = written.back_up(with_folders([b"docs/c"], 2), base=first)
    number = written.archive_id(snapshot)
    plans: list[str] = []
    with written.catalog.database.reading() as connection:
        job = connection.exec_driver_sql("SELECT id FROM job").scalar_one()
        more = {"cursor": None, "limit": 5}
        for ask in (
            lambda: tree.list_folder(
                connection, job="docs", run_id=None, folder=b"docs", cursor=None, limit=5
            ),
            lambda: search.search_members(connection, "c", job="docs", **more),
            lambda: members.list_members(connection, number, match=None, prefix=None, **more),
            lambda: names.long_names(connection, job, "docs"),
        ):
            plans += plan_of(connection, ask)
    on_files = [plan for plan in plans if " v" in plan or "file_version" in plan]
    assert len(on_files) >= 6
    assert not [plan for plan in on_files if plan.startswith("SCAN")], plans
    searched = [plan for plan in on_files if "job_id" in plan]
    assert any("ix_file_version_folder" in plan for plan in searched)
    # Only rows are counted by the index of the job, which has all of its rows.
    assert all("COVERING" in plan for plan in plans if "ix_file_version_job " in plan)
    written.catalog.close()


def test_one_name_is_found_by_its_index_before_anybody_counted_rows(any_catalog: str) -> None:
    """Planners without statistics would read all rows of the job, once for each name."""
    from pybak.catalog.rows import by_name

    written = Written(any_catalog)
    written.back_up(with_folders([b"docs/c"]))
    with written.catalog.database.reading() as connection:
        named = by_name(connection)
        statement = f"{named.table} WHERE {named.job_id} = 1 AND path = 'docs/c'"
        if written.catalog.database.is_postgres:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql(f"EXPLAIN SELECT size FROM {statement}").all()
            assert "ix_file_version_path" in str(rows)
        else:
            rows = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT size FROM {statement} AND first_seq <= 5"
            ).all()
            assert "ix_file_version_name (job_id=? AND path=?" in str(rows)
    written.catalog.close()
