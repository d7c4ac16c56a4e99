"""A table of a report, before it is Markdown or rich."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
