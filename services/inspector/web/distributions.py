"""How the exchanges of a filter spread, as bars that each narrow the filter by one more field. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any

from services.inspector.store.spread import Counted
from shared.contracts.traces import HEAT_NATS
from shared.method.anchoring import FB_NONE

MOST_BARS = 12

TITLES = {
    "verdict": "Feedback",
    "correct": "First answer",
    "change": "Revised answer",
    "student": "Tutee",
    "domain": "Domain",
    "chars": "Length of the answer, characters",
    "step": "Step",
    "heat": "Divergence, nats a token",
}
WORDS: Mapping[object, str] = {
    ("correct", 1): "right",
    ("correct", 0): "wrong",
    ("verdict", FB_NONE): "no feedback came",
}
RANGES = {"chars": ("min_chars", "max_chars"), "step": ("min_step", "max_step")}
BEGIN = {"chars": 0, "step": 1}
"""Of the first bar: a bar that held a step 0, which no run has, would look like half a bar."""


@dataclass(frozen=True)
class Bar:
    """share: of the tallest. fields: of the filter that has only these. chosen: the filter has them now."""

    label: str
    count: int
    share: float
    fields: Mapping[str, Any]
    chosen: bool


@dataclass(frozen=True)
class Distribution:
    title: str
    bars: Sequence[Bar]


def distributions(counted: Iterable[Counted], filters: Mapping[str, Any]) -> list[Distribution]:
    """Those that have anything to count. filters: the fields that are given."""
    by_dimension: dict[str, dict[str | int, int]] = {name: {} for name in TITLES}
    for each in counted:
        by_dimension[each.dimension][each.value] = each.count
    return [
        Distribution(TITLES[name], _bars(_bins(name, counts), filters))
        for name, counts in by_dimension.items()
        if counts
    ]


Bin = tuple[str, Mapping[str, Any], int]


def _bins(name: str, counts: Mapping[str | int, int]) -> list[Bin]:
    """Label, fields of the filter, and count."""
    if name in RANGES:
        return _ranges(name, {int(value): count for value, count in counts.items()})
    if name == "heat":
        return [_heat(int(value), counts[value]) for value in sorted(counts)]
    ordered = sorted(counts, key=lambda value: -counts[value])
    return [
        (WORDS.get((name, value), str(value).replace("_", " ")), {name: _field(name, value)}, counts[value])
        for value in ordered
    ]


def _field(name: str, value: str | int) -> str | int | bool:
    return bool(value) if name == "correct" else value


def _ranges(name: str, counts: Mapping[int, int]) -> list[Bin]:
    """At most MOST_BARS, all as wide, empty ones between them included."""
    low, high = RANGES[name]
    begin = BEGIN[name]
    width = round_width(min(counts) - begin, max(counts) - begin)
    first, last = ((value - begin) // width for value in (min(counts), max(counts)))
    sums = dict.fromkeys(range(first, last + 1), 0)
    for value, count in counts.items():
        sums[(value - begin) // width] += count
    spans = {begin + place * width: count for place, count in sums.items()}
    return [
        # Words of what is there: no bar of steps ends after the newest step.
        (_span(least, min(least + width - 1, max(counts))), {low: least, high: least + width - 1}, count)
        for least, count in spans.items()
    ]


def round_width(low: int, high: int) -> int:
    """The least of 1, 2, 5, 10, 20, … with which low to high make no more than MOST_BARS bars."""
    widths = (digit * int(10**power) for power in numbers() for digit in (1, 2, 5))
    return next(width for width in widths if high // width - low // width < MOST_BARS)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _heat(heat: int, count: int) -> Bin:
    low = HEAT_NATS[heat]
    if heat + 1 == len(HEAT_NATS):
        return f"{low} and more", {"min_nats": low, "max_nats": None}, count
    return f"{low}–{HEAT_NATS[heat + 1]}", {"min_nats": low, "max_nats": HEAT_NATS[heat + 1]}, count


def _bars(bins: Sequence[Bin], filters: Mapping[str, Any]) -> list[Bar]:
    tallest = max(count for _, _, count in bins)
    return [
        Bar(label, count, count / tallest, fields, all(filters.get(name) == value for name, value in fields.items()))
        for label, fields, count in bins
    ]
