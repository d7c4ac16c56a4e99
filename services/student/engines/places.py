"""Which row of a cache lies where, so that few move. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

Row = TypeVar("Row")

SHORT, WIDER = 128, 4
"""Columns of rows that are not told apart, and how much longer others may be than each other: each lot costs some calls
of attention more, and each row that comes into another lot a copy."""


def settled(found: Sequence[tuple[int, Row]], first: int, end: int) -> tuple[list[Row], list[int]]:
    """Give each child a place from `first` on, its parent's where possible.

    found: the place of its parent, below `end`, and the child. Returns the children and, for each, its parent's place.
    """
    places: dict[int, tuple[int, Row]] = {}
    homeless = []
    for parent, row in found:
        if parent < first + len(found) and parent not in places:
            places[parent] = (parent, row)
        else:
            homeless.append((parent, row))
    free = (place for place in range(first, max(first + len(found), end)) if place not in places)
    places.update(zip(free, homeless, strict=False))
    ordered = [places[place] for place in range(first, first + len(found))]
    return [row for _, row in ordered], [parent for parent, _ in ordered]


def in_order(keys: Sequence[int]) -> list[int]:
    """By place, which one goes there so that all are in order; what lies among its like stays where it is."""
    wanted = sorted(keys)
    wrong = [place for place, key in enumerate(keys) if key != wanted[place]]
    found = list(range(len(keys)))
    for place, parent in zip(wrong, sorted(wrong, key=lambda place: keys[place]), strict=True):
        found[place] = parent
    return found


def width(length: int) -> int:
    """Rows of one width go through attention together: within a factor of WIDER, or all that are short."""
    found = 0
    while length >= SHORT * WIDER**found:
        found += 1
    return found


def spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """How many rows, one lot after the other, need how many columns for one more token."""
    lots = [list(lot) for _, lot in groupby(lengths, key=width)]
    return [(len(lot), max(lot) + 1) for lot in lots]
