"""What every storage must do, whatever it is: tests that `test_storage_suite.py` runs on each.

A storage to be judged is given as a `Judged`: empty at the start, with what it can't do.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from pybak.errors import ExistsError, NotFoundError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.protocol import SentPart, Storage, Upload

ODD_NAMES = [
    "two words.zip", "100%41.zip", "a+b#1.zip", "what?a&b=c;d.zip", "straße_日本.zip",
    "e\u0301.zip", "'quote\".zip", "(1)[2]{3}*~.zip", "back\\slash.zip", ".hidden", "<tag>.zip",
    " blank first", "a:b@c,d!e$.zip", "x" * 200,
]  # fmt: skip
RANGES = [
    (0, 10, b"0123456789"), (0, 1, b"0"), (9, 1, b"9"), (3, 4, b"3456"), (8, 5, b"89"),
    (10, 1, b""), (1000, 5, b""), (4, 0, b""),
]  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A storage, and what it can't do."""

    storage: Storage
    elsewhere: Storage
    """The same folder, opened a second time as another process would."""
    names_are_utf8: bool = True
    races_are_lost: bool = False
    """Whether of two who write one name at the same moment both may be told that they did."""

    @property
    def piece(self) -> int:
        """The size of the smallest part that another may follow."""
        return self.storage.limits.least


class StorageSuite:
    """The tests. Who inherits gives the fixture `judged`."""

    @pytest.fixture
    def storage(self, judged: Judged) -> Iterator[Storage]:
        yield judged.storage
        assert list(judged.storage.unfinished()) == [], "an upload was left"

    def test_check_passes_and_an_empty_folder_lists_nothing(self, storage: Storage) -> None:
        storage.check()
        assert list(storage.list()) == []

    def test_what_is_put_can_be_looked_at_listed_and_read(self, storage: Storage) -> None:
        stored = storage.put("a.zip", body(b"content"))
        assert (stored.name, stored.size) == ("a.zip", 7)
        assert storage.stat("a.zip") == stored
        assert list(storage.list()) == [stored]
        assert storage.read("a.zip", 0, 100) == b"content"

    def test_the_time_of_writing_is_about_now(self, storage: Storage) -> None:
        import time

        stored = storage.put("a.zip", body(b"content"))
        assert abs(stored.modified_ns - time.time_ns()) < 60e9

    def test_nothing_is_known_of_a_missing_file(self, storage: Storage) -> None:
        assert storage.stat("none.zip") is None
        with pytest.raises(NotFoundError, match=r"none\.zip"):
            storage.read("none.zip", 0, 1)

    def test_a_name_that_is_taken_is_refused_and_the_file_stays(self, storage: Storage) -> None:
        """(case 102)"""
        first = storage.put("a.zip", body(b"first"))
        with pytest.raises(ExistsError, match=r"a\.zip"):
            storage.put("a.zip", body(b"second"))
        with pytest.raises(ExistsError):
            storage.put("a.zip", body(b"other"))  # of the same size
        assert storage.stat("a.zip") == first
        assert storage.read("a.zip", 0, 10) == b"first"

    def test_a_file_of_no_bytes_can_be_put(self, storage: Storage) -> None:
        stored = storage.put("empty.zip", body(b""))
        assert stored.size == 0
        assert storage.stat("empty.zip") == stored
        assert storage.read("empty.zip", 0, 5) == b""

    def test_ranges_are_read_and_end_with_the_file(self, storage: Storage) -> None:
        storage.put("a.zip", body(b"0123456789"))
        for offset, length, expected in RANGES:
            assert storage.read("a.zip", offset, length) == expected, (offset, length)

    def test_a_file_that_was_replaced_is_not_read_as_the_old_one(self, storage: Storage) -> None:
        """(case 64)"""
        old = storage.put("a.zip", body(b"old content"))
        assert storage.read("a.zip", 0, 3, version=old.version) == b"old"
        assert storage.delete("a.zip")
        new = storage.put("a.zip", body(b"new content!"))
        assert new.version != old.version
        with pytest.raises(StorageError, match=r"a\.zip"):
            storage.read("a.zip", 0, 3, version=old.version)
        with pytest.raises(StorageError, match=r"a\.zip"):
            storage.delete("a.zip", version=old.version)
        assert storage.read("a.zip", 0, 3, version=new.version) == b"new"
        assert storage.delete("a.zip", version=new.version)

    def test_deleting_tells_whether_there_was_a_file(self, storage: Storage) -> None:
        storage.put("a.zip", body(b"content"))
        storage.put("b.zip", body(b"content"))
        assert storage.delete("a.zip")
        assert not storage.delete("a.zip")
        assert [found.name for found in storage.list()] == ["b.zip"]
        assert storage.stat("a.zip") is None

    def test_parts_arrive_in_any_order_with_gaps_and_again(
        self, storage: Storage, judged: Judged
    ) -> None:
        upload = storage.begin("big.zip")
        one, two, last = piece(judged, 1), piece(judged, 2), b"end"
        storage.send(upload, 7, body(piece(judged, 9)))
        sent = [
            storage.send(upload, 12, body(last)),
            storage.send(upload, 2, body(one)),
            storage.send(upload, 7, body(two)),
        ]
        assert sent[0] == SentPart(12, 3, hashlib.sha256(last).hexdigest(), sent[0].token)
        stored = storage.complete(upload, in_order(sent))
        assert stored.size == 2 * judged.piece + 3
        assert storage.stat("big.zip") == stored
        assert storage.read("big.zip", 0, stored.size) == one + two + last
        joint = storage.read("big.zip", judged.piece - 1, 2, version=stored.version)
        assert joint == one[-1:] + two[:1]

    def test_parts_that_are_not_named_at_the_end_are_dropped(
        self, storage: Storage, judged: Judged
    ) -> None:
        upload = storage.begin("big.zip")
        sent = [storage.send(upload, n, body(piece(judged, n))) for n in (1, 2, 3)]
        stored = storage.complete(upload, [sent[0], sent[2]])
        assert storage.read("big.zip", 0, stored.size) == piece(judged, 1) + piece(judged, 3)

    def test_an_upload_can_be_of_one_small_part(self, storage: Storage) -> None:
        upload = storage.begin("small.zip")
        storage.complete(upload, [storage.send(upload, 1, body(b"x"))])
        assert storage.read("small.zip", 0, 5) == b"x"

    def test_parts_are_sent_and_completed_through_another_opening(
        self, storage: Storage, judged: Judged
    ) -> None:
        upload = storage.begin("big.zip")
        again = Upload(upload.name, upload.token, upload.started_ns, upload.way)
        sent = [
            judged.elsewhere.send(again, 1, body(piece(judged, 1))),
            storage.send(upload, 2, body(b"end")),
        ]
        judged.elsewhere.complete(again, sent)
        assert storage.read("big.zip", 0, 1 << 30) == piece(judged, 1) + b"end"

    def test_a_part_that_is_too_small_is_refused(self, storage: Storage, judged: Judged) -> None:
        upload = storage.begin("big.zip")
        sent = [storage.send(upload, n, body(b"small")) for n in (1, 2)]
        if judged.piece == 1:
            assert storage.complete(upload, sent).size == 10
            return
        with pytest.raises(StorageError, match="small"):
            storage.complete(upload, sent)
        assert storage.stat("big.zip") is None
        storage.abort(upload)

    def test_a_part_that_was_never_sent_is_missed(self, storage: Storage, judged: Judged) -> None:
        upload = storage.begin("big.zip")
        sent = storage.send(upload, 1, body(piece(judged, 1)))
        never = SentPart(2, 3, hashlib.sha256(b"end").hexdigest(), sent.token)
        with pytest.raises(StorageError):
            storage.complete(upload, [sent, never])
        assert storage.stat("big.zip") is None
        storage.abort(upload)

    def test_an_upload_of_no_parts_is_refused(self, storage: Storage) -> None:
        upload = storage.begin("big.zip")
        with pytest.raises(StorageError):
            storage.complete(upload, [])
        assert storage.stat("big.zip") is None
        storage.abort(upload)

    def test_completing_never_replaces_a_file_and_drops_the_upload(self, storage: Storage) -> None:
        upload = storage.begin("a.zip")
        sent = storage.send(upload, 1, body(b"sent in parts"))
        storage.put("a.zip", body(b"was first"))
        with pytest.raises(ExistsError, match=r"a\.zip"):
            storage.complete(upload, [sent])
        assert storage.read("a.zip", 0, 100) == b"was first"
        assert list(storage.unfinished()) == []

    def test_of_two_uploads_to_one_name_the_first_completed_stays(self, storage: Storage) -> None:
        first, second = storage.begin("a.zip"), storage.begin("a.zip")
        assert first.token != second.token
        of_first = storage.send(first, 1, body(b"of the first"))
        of_second = storage.send(second, 1, body(b"of the second"))
        storage.complete(second, [of_second])
        with pytest.raises(ExistsError):
            storage.complete(first, [of_first])
        assert storage.read("a.zip", 0, 100) == b"of the second"

    def test_an_aborted_upload_leaves_nothing(self, storage: Storage, judged: Judged) -> None:
        upload = storage.begin("big.zip")
        storage.send(upload, 1, body(piece(judged, 1)))
        storage.abort(upload)
        storage.abort(upload)
        assert storage.stat("big.zip") is None
        assert list(storage.list()) == []
        with pytest.raises(StorageError, match=r"big\.zip"):
            storage.send(upload, 2, body(b"late"))

    def test_uploads_are_listed_until_they_end_and_are_no_files(
        self, storage: Storage, judged: Judged
    ) -> None:
        one, two = storage.begin("one.zip"), storage.begin("two.zip")
        storage.send(one, 1, body(piece(judged, 1)))
        found = {upload.name: upload for upload in judged.elsewhere.unfinished()}
        assert set(found) == {"one.zip", "two.zip"}
        assert {found["one.zip"].token, found["two.zip"].token} == {one.token, two.token}
        assert list(storage.list()) == []
        assert storage.stat("one.zip") is None
        judged.elsewhere.abort(found["one.zip"])
        assert [upload.name for upload in storage.unfinished()] == ["two.zip"]
        storage.complete(two, [storage.send(two, 1, body(b"x"))])
        assert list(storage.unfinished()) == []

    def test_an_upload_tells_when_it_was_last_sent_to(
        self, storage: Storage, judged: Judged
    ) -> None:
        """(case 93)"""
        upload = storage.begin("a.zip")
        assert storage.newest_ns(upload) > 0
        time.sleep(1.1)  # some tell whole seconds
        begun_ns = storage.newest_ns(upload)
        storage.send(upload, 7, body(piece(judged, 1)))
        (found,) = judged.elsewhere.unfinished()
        assert judged.elsewhere.newest_ns(found) > begun_ns
        storage.abort(upload)
        assert storage.newest_ns(upload) == 0

    def test_odd_names_stay_as_they_are(self, storage: Storage) -> None:
        for name in ODD_NAMES:
            storage.put(name, body(name.encode()))
        assert sorted(found.name for found in storage.list()) == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            assert storage.read(name, 0, 1000) == name.encode()
        with pytest.raises(ExistsError):
            storage.put(ODD_NAMES[0], body(b"other"))
        uploads = [storage.begin(f"new {name}") for name in ODD_NAMES[:5]]
        assert {found.name for found in storage.unfinished()} == {u.name for u in uploads}
        for upload in uploads:
            storage.abort(upload)
        for name in ODD_NAMES:
            assert storage.delete(name)
        assert list(storage.list()) == []

    def test_names_that_are_no_utf8_are_kept_or_refused_clearly(
        self, storage: Storage, judged: Judged
    ) -> None:
        name = os.fsdecode(b"latin-\xe9.zip")
        if not judged.names_are_utf8:
            storage.put(name, body(b"content"))
            assert [found.name for found in storage.list()] == [name]
            assert storage.read(name, 0, 1) == b"c"
            return
        with pytest.raises(StorageError, match="UTF-8"):
            storage.put(name, body(b"content"))
        with pytest.raises(StorageError, match="UTF-8"):
            storage.begin(name)

    def test_what_is_no_name_in_the_folder_is_refused(self, storage: Storage) -> None:
        for name in ("", "sub/a.zip", "/a.zip"):
            for call in (
                lambda name: storage.put(name, body(b"x")), storage.begin, storage.stat,
                lambda name: storage.read(name, 0, 1), storage.delete,
            ):  # fmt: skip
                with pytest.raises(StorageError):
                    call(name)

    def test_of_many_who_put_one_name_one_does(self, storage: Storage, judged: Judged) -> None:
        """(case 98)"""
        barrier = threading.Barrier(4)

        def put(number: int) -> bytes | None:
            content = f"content {number}".encode()
            barrier.wait()
            try:
                storage.put("a.zip", body(content))
            except ExistsError:
                return None
            return content

        with ThreadPoolExecutor(4) as pool:
            done = [content for content in pool.map(put, range(4)) if content is not None]
        assert len(done) == 1 or judged.races_are_lost
        assert storage.read("a.zip", 0, 100) in done

    def test_many_threads_send_parts_at_once(self, storage: Storage, judged: Judged) -> None:
        upload = storage.begin("big.zip")
        with ThreadPoolExecutor(4) as pool:
            sent = list(
                pool.map(lambda n: storage.send(upload, n, body(piece(judged, n))), range(1, 6))
            )
        stored = storage.complete(upload, in_order(sent))
        with ThreadPoolExecutor(4) as pool:
            read = pool.map(
                lambda n: storage.read("big.zip", n * judged.piece, judged.piece), range(5)
            )
            assert [bytes(got[:1]) for got in read] == [bytes([n]) for n in range(1, 6)]
        assert stored.size == 5 * judged.piece


def body(data: bytes) -> BytesBody:
    """Give bytes as what is sent."""
    return BytesBody(data)


def piece(judged: Judged, number: int) -> bytes:
    """Give the bytes of a part that another may follow."""
    return bytes([number]) * judged.piece


def in_order(sent: list[SentPart]) -> list[SentPart]:
    """Give parts by their numbers."""
    return sorted(sent, key=lambda part: part.number)
