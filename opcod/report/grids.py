"""A table of a report, before it is Markdown or rich, and as either."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Grid:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def grid_markdown(grid: Grid) -> list[str]:
    """Lines of a section with the table, and an empty line after it."""
    rows = [grid.header, ["---"] * len(grid.header), *grid.rows]
    return [f"## {grid.title}", "", *("| " + " | ".join(row) + " |" for row in rows), ""]


def grid_table(grid: Grid) -> Table:
    table = Table(*grid.header, title=grid.title, title_justify="left")
    for row in grid.rows:
        table.add_row(*row)
    return table
