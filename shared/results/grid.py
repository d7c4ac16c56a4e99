"""A table of results, and how it is written in Markdown, on a terminal and in HTML. Pure.

What always holds: a number is written the same way in all three. A cell is the value itself; how many digits it has
and which unit is said once, by its column. What is not known is a dash.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup, escape

from shared.errors import printable
from shared.results.figures import Interval

if TYPE_CHECKING:
    from rich.table import Table

NOT_KNOWN = "–"


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval. counts: for a rate, (part, whole), which are then written before it."""

    value: float
    interval: Interval | None
    counts: tuple[int, int] | None = None


@dataclass(frozen=True)
class OverSeeds:
    """A mean with half of its 95 % interval (None for a single seed), and a word on it where there is one."""

    mean: float
    half: float | None
    word: str = ""


@dataclass(frozen=True)
class FromTo:
    before: float
    after: float


@dataclass(frozen=True)
class Named:
    """A text with more about it. note: said behind it; mark: classes that HTML gives it; title and href likewise."""

    text: str
    note: str = ""
    mark: str = ""
    title: str = ""
    href: str = ""


Value = str | int | float | Measured | OverSeeds | FromTo | Named | Sequence["Value"] | None
"""What a cell holds. A sequence is its values with a blank between them."""

Rows = Sequence[Sequence[Value]]


@dataclass(frozen=True)
class Column:
    """form: the format of its numbers (`.1f`), which are multiplied by `scale` and followed by `unit`.

    interval_form: that of an interval's ends, where it is another one. drawn: what HTML adds to a share, a bar (also a
    good or a bad one), or a colour by its sign.
    """

    title: str
    form: str = ""
    scale: float = 1
    unit: str = ""
    interval_form: str | None = None
    drawn: Literal["", "bar", "bar good", "bar bad", "sign"] = ""

    def number(self, value: float) -> str:
        return format(self.scale * value, self.form)

    def end(self, value: float) -> str:
        return format(self.scale * value, self.form if self.interval_form is None else self.interval_form)

    def size(self, value: float) -> str:
        """Of a half interval, which has no sign in a column of differences either."""
        return format(self.scale * value, self.form.removeprefix("+"))


@dataclass(frozen=True)
class Grid:
    """Every row has a cell for each column; the first column names the rows."""

    title: str
    columns: Sequence[Column]
    rows: Rows


def plain(*titles: str) -> list[Column]:
    """Columns of words and counts."""
    return [Column(title) for title in titles]


def percent(title: str, digits: int = 1, drawn: Literal["", "bar", "bar good", "bar bad"] = "") -> Column:
    """A column of shares, each with the sign behind it."""
    return Column(title, f".{digits}f", 100, " %", drawn=drawn)


def percentage(title: str, form: str = ".1f") -> Column:
    """A column of shares as percent, where a title says so; `+.1f` for percentage points."""
    return Column(title, form, 100)


def markdown(grid: Grid) -> list[str]:
    """Lines of a section with the table, and an empty line after it."""
    header = [column.title for column in grid.columns]
    # Names of domains and kinds are a file's: a bar or a line's end in one would break the table.
    cells = ([" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in _texts(grid))
    rows = [header, ["---"] * len(header), *cells]
    return [f"## {grid.title}", "", *("| " + " | ".join(row) + " |" for row in rows), ""]


def terminal(grid: Grid) -> "Table":
    # A service that only writes HTML does without these.
    from rich.table import Table
    from rich.text import Text

    # Texts and not strings, which a console may read as markup.
    table = Table(title=Text(grid.title, style="table.title"), title_justify="left")
    for column in grid.columns:
        table.add_column(Text(column.title))
    for row in _texts(grid):
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def html(grid: Grid) -> Markup:
    """A `<table>` without the title. Every text is escaped here, whoever wrote it."""
    # An empty <th> would be read out as a heading of nothing.
    heads = [
        Markup('<th scope="col">{}</th>').format(column.title) if column.title else Markup("<td></td>")
        for column in grid.columns
    ]
    rows = [
        Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(
            _html(row[0], grid.columns[0]),
            _joined(_data(cell, column) for cell, column in zip(row[1:], grid.columns[1:], strict=True)),
        )
        for row in grid.rows
    ]
    return Markup("<table><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table>").format(_joined(heads), _joined(rows))


def text(cell: Value, column: Column) -> str:
    """What the cell says, without any mark."""
    match cell:
        case None:
            return NOT_KNOWN
        case str():
            return cell
        case int() | float():
            return column.number(cell) + column.unit
        case Measured(value, interval, counts):
            count = f"{counts[0]}/{counts[1]} = " if counts else ""
            ends = f" ({column.end(interval[0])} to {column.end(interval[1])})" if interval else ""
            return count + text(value, column) + ends
        case OverSeeds(mean, half, word):
            size = "" if half is None else f" ± {column.size(half)}"
            return text(mean, column) + size + (f", {word}" if word else "")
        case FromTo(before, after):
            return f"{column.number(before)} → {column.number(after)}"
        case Named():
            return f"{cell.text} ({cell.note})" if cell.note else cell.text
    return " ".join(text(each, column) for each in cell)


def _texts(grid: Grid) -> Iterator[list[str]]:
    for row in grid.rows:
        yield [text(cell, column) for cell, column in zip(row, grid.columns, strict=True)]


def _data(cell: Value, column: Column) -> Markup:
    if column.drawn == "sign" and isinstance(cell, float) and cell:
        return Markup('<td class="{}">{}</td>').format("right" if cell > 0 else "wrong", _html(cell, column))
    return Markup("<td>{}</td>").format(_html(cell, column))


def _html(cell: Value, column: Column) -> Markup:
    match cell:
        case float() if column.drawn.startswith("bar"):
            bar = Markup('{} <meter class="{}" value="{}" aria-hidden="true"></meter>')
            return bar.format(text(cell, column), column.drawn.removeprefix("bar").strip(), cell)
        case Measured(value, (low, high), None):
            # A dash beside signs would be read as one of them.
            to = " to " if column.form.startswith("+") else "–"
            return Markup("{} <small>{}</small>").format(text(value, column), column.end(low) + to + column.end(high))
        case Named():
            return _named(cell)
        case list() | tuple():
            return Markup(" ").join(_html(each, column) for each in cell)
    return escape(text(cell, column))


def _named(cell: Named) -> Markup:
    inner = escape(cell.text)
    if cell.mark:
        title = Markup(' title="{}"').format(cell.title) if cell.title else ""
        inner = Markup('<span class="{}"{}>{}</span>').format(cell.mark, title, inner)
    if cell.href:
        inner = Markup('<a href="{}">{}</a>').format(cell.href, inner)
    return inner + Markup(" <small>{}</small>").format(cell.note) if cell.note else inner


def _joined(parts: "Iterator[Markup] | Sequence[Markup]") -> Markup:
    return Markup("").join(parts)
