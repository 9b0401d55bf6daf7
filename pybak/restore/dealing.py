"""Who reads what: members dealt out to batches."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from pybak.restore.items import Item

_FILE_COST: Final = 60_000  # what making a file costs, in bytes that could be unpacked meanwhile
_FIRST_WEIGHT, _LAST_WEIGHT = 1.7, 0.3


class Pile(NamedTuple):
    """What is read of one archive, dealt out as `deal` says, to `most` batches or fewer."""

    items: Sequence[Item]
    in_runs: bool
    most: int


def spread(piles: Sequence[Pile], tasks: int) -> list[list[tuple[int, list[Item]]]]:
    """Deal several archives out to at most `tasks` batches, the most expensive batch first.

    A batch is a list of piles' numbers, each with the items of that pile, for a worker to open one
    archive after the other. Each archive gets batches by what it costs; small ones share some.
    """
    costs = [sum(map(cost, pile.items)) for pile in piles]
    total = sum(costs)
    pieces: list[tuple[int, int, list[Item]]] = []
    for number, (pile, price) in enumerate(zip(piles, costs, strict=True)):
        count = max(1, min(pile.most, round(tasks * price / total) if total else 1))
        dealt = deal(pile.items, count, in_runs=pile.in_runs)
        pieces += [(sum(map(cost, items)), number, items) for items in dealt]
    pieces.sort(key=lambda piece: -piece[0])
    if len(pieces) <= tasks:
        return [[(number, items)] for _, number, items in pieces]
    # The next piece goes to whom has least to do.
    hands: list[tuple[int, int, list[tuple[int, list[Item]]]]] = [
        (0, at, []) for at in range(tasks)
    ]
    for price, number, items in pieces:
        done, at, hand = hands[0]
        hand.append((number, items))
        heapq.heapreplace(hands, (done + price, at, hand))
    hands.sort(key=lambda hand: -hand[0])
    return [_by_pile(hand) for _, _, hand in hands]


def _by_pile(hand: list[tuple[int, list[Item]]]) -> list[tuple[int, list[Item]]]:
    """Join the items of each pile, in the archive's order, so that it is opened once."""
    joined: dict[int, list[list[Item]]] = {}
    for number, items in hand:
        joined.setdefault(number, []).append(items)
    return [
        (
            number,
            [
                item
                for items in sorted(runs, key=lambda run: run[0].member.offset)
                for item in items
            ],
        )
        for number, runs in sorted(joined.items())
    ]


def deal(items: Sequence[Item], tasks: int, *, in_runs: bool) -> list[list[Item]]:
    """Deal items out to at most `tasks` batches, the most expensive batch first.

    `in_runs` keeps the archive's order and gives each batch one run of it, for streams: two
    batches that read the same piece would unpack it twice. Else neighbours in `items` stay
    together, and a member worth more than an even share is a batch of its own. Batches are of
    falling size, so that the last ones fill the gaps.
    """
    if not items:
        return []
    if in_runs:
        ordered = sorted(items, key=_offset)
        batches = _falling([(item, cost(item)) for item in ordered], tasks)
    else:
        costs = [cost(item) for item in items]
        share = sum(costs) / tasks
        single = [[item] for item, price in zip(items, costs, strict=True) if price > share]
        rest = [(item, price) for item, price in zip(items, costs, strict=True) if price <= share]
        batches = single + _falling(rest, max(tasks - len(single), 1))
    batches.sort(key=lambda batch: -sum(map(cost, batch)))
    return batches


def cost(item: Item) -> int:
    """Give what a member costs, in bytes unpacked meanwhile."""
    return item.content_size + _FILE_COST


def by_folder(items: Sequence[Item]) -> list[Item]:
    """Give the items folder by folder, the folders in the order in which the archive has them."""
    first: dict[bytes, int] = {}
    for item in items:
        folder = item.path.rpartition(b"/")[0]
        offset = item.member.offset
        if offset <= first.setdefault(folder, offset):
            first[folder] = offset
    return sorted(
        items, key=lambda item: (first[item.path.rpartition(b"/")[0]], item.member.offset)
    )


def slice_of(items: Sequence[Item], number: int, slices: int) -> list[Item]:
    """Give the `number`th of `slices` runs of the archive, counted from 0, about equally costly.

    Every item is in exactly one of them, and none is empty where there are as many items.
    """
    ordered = sorted(items, key=_offset)
    costs = [cost(item) for item in ordered]
    total = sum(costs)
    filled = min(slices, len(ordered))
    found: list[Item] = []
    at = -1
    for index, (item, price, done) in enumerate(
        zip(ordered, costs, accumulate(costs), strict=True)
    ):
        # After a large one no slice is left out, and at the end enough items for the last ones.
        at = max(min((done - price) * slices // total, at + 1), filled - len(ordered) + index)
        if at == number:
            found.append(item)
    return found


def _offset(item: Item) -> int:
    return item.member.offset


def _falling(items: list[tuple[Item, int]], count: int) -> list[list[Item]]:
    total = sum(price for _, price in items)
    step = (_FIRST_WEIGHT - _LAST_WEIGHT) / max(count - 1, 1)
    weights = [_FIRST_WEIGHT - step * index for index in range(count)]
    factor = total / sum(weights)
    batches: list[list[Item]] = [[]]
    border, index, done = weights[0] * factor, 0, 0
    for item, price in items:
        if done >= border and len(batches) < count:
            while done >= border and index < count - 1:
                index += 1
                border += weights[index] * factor
            batches.append([])
        batches[-1].append(item)
        done += price
    return [batch for batch in batches if batch]
