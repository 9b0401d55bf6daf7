"""What workers of inboxes are handed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pybak.inbox.encode import Recipe
from pybak.inbox.found import Found
from pybak.inbox.parcels import Item, cut, parcel_path, read_parcel, write_parcel


def item(row: int, size: int, *, anew: bool = False) -> Item:
    found = Found(b"%d" % row, size, 0, 0, row, 1, 0o644)
    return Item(row, found, b"%d.gz" % row, anew)


def test_a_parcel_holds_the_known_digests_of_its_sizes_once(tmp_path: Path) -> None:
    digests = tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(1000))
    items = [*(item(row, 8) for row in range(200)), item(200, 9, anew=True)]
    parcels = cut(
        items, source=b"/in", recipe=Recipe("gz", 2, 1), encrypted=False, first=0,
        known={8: digests, 9: digests, 10: digests}, quiet_since_ns=17,
    )  # fmt: skip
    (parcel,) = parcels
    assert parcel.known == {8: digests}
    write_parcel(tmp_path, parcel)
    assert parcel_path(tmp_path, 0).stat().st_size < 100_000
    assert read_parcel(tmp_path, 0) == parcel
