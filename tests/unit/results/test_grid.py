"""One table, three ways to write it: the same numbers in all of them, and nothing in a text is markup."""

import io
import re

import pytest
from rich.console import Console

from shared.results.grid import (
    Column,
    FromTo,
    Grid,
    Measured,
    Named,
    OverSeeds,
    Value,
    html,
    markdown,
    percent,
    percentage,
    plain,
    terminal,
    text,
)

GRID = Grid(
    "Scores",
    [*plain("student"), percentage("score"), percentage("change", "+.1f"), percent("broke"), Column("s", ".0f")],
    [
        [Named("a", "own"), Measured(0.25, (0.0, 0.75)), Measured(-0.5, (-1.0, 0.25)), None, 61.6],
        ["b", 0.5, FromTo(0.1, 0.2), Measured(0.2, (0.1, 0.4), (1, 5)), OverSeeds(60.0, 1.4, "higher")],
    ],
)


def numbers(written: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", written)


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        (None, percent("x"), "–"),
        (0, percent("x"), "0.0 %"),
        (3, Column("x"), "3"),
        ("none finished", percent("x"), "none finished"),
        (0.1234, Column("x", ".4g"), "0.1234"),
        (Measured(0.25, (0.0, 0.75)), percentage("x"), "25.0 (0.0 to 75.0)"),
        (Measured(0.25, None), percentage("x"), "25.0"),
        (Measured(0.333, (0.0, 1.0)), Column("x", ".3f", interval_form=".2f"), "0.333 (0.00 to 1.00)"),
        (Measured(0.2, (0.017, 0.783), (1, 5)), percent("x"), "1/5 = 20.0 % (1.7 to 78.3)"),
        (OverSeeds(0.26, 0.025, "higher"), percentage("x", "+.1f"), "+26.0 ± 2.5, higher"),
        (OverSeeds(0.26, None), percentage("x", "+.1f"), "+26.0"),
        (FromTo(0.25, 1.0), percentage("x"), "25.0 → 100.0"),
        (Named("physics", "own"), Column("x"), "physics (own)"),
        ([Named("a"), Named("b")], Column("x"), "a b"),
    ],
)
def test_a_column_says_how_its_values_are_written(value: Value, column: Column, said: str) -> None:
    assert text(value, column) == said


def test_all_three_hold_the_same_numbers() -> None:
    output = io.StringIO()
    Console(file=output, width=200).print(terminal(GRID))
    expected = numbers(" ".join(markdown(GRID)))
    assert numbers(output.getvalue()) == expected
    assert numbers(re.sub(r"<[^>]+>", " ", html(GRID))) == expected
    assert len(expected) == 17


def test_every_row_needs_a_cell_for_each_column() -> None:
    short = Grid("x", plain("a", "b"), [["only one"]])
    for written in (markdown, terminal, html):
        with pytest.raises(ValueError, match="zip"):
            written(short)


def test_in_html_the_first_cell_names_its_row_and_shares_are_drawn() -> None:
    grid = Grid(
        "x",
        [*plain("", "verdict"), percent("share", drawn="bar bad"), Column("change", "+.1f", drawn="sign")],
        [
            ["a", Named("match", mark="verdict", title="let through", href="/?verdict=match"), 0.5, -1.0],
            ["b", "none", None, 0.0],
        ],
    )
    written = str(html(grid))
    assert written.startswith('<table><thead><tr><td></td><th scope="col">verdict</th>')
    assert '<th scope="row">a</th>' in written
    assert '<a href="/?verdict=match"><span class="verdict" title="let through">match</span></a>' in written
    assert '50.0 % <meter class="bad" value="0.5" aria-hidden="true"></meter>' in written
    assert '<td class="wrong">-1.0</td>' in written
    assert "<td>–</td><td>+0.0</td>" in written


def test_what_others_wrote_is_text_in_html() -> None:
    hostile = '"><script>x</script>'
    named = Named(hostile, note=hostile, mark="m", title=hostile, href="/?" + hostile)
    written = str(html(Grid("x", plain(hostile, hostile), [[hostile, named], [named, [hostile, named]]])))
    assert "<script" not in written
    assert '"">' not in written


def test_a_name_that_looks_like_markup_stays_what_it_is() -> None:
    grid = Grid("Kinds", plain("kind", "note"), [["[aq] | [/x]", "two\nlines"]])
    output = io.StringIO()
    Console(file=output, width=80).print(terminal(grid))
    assert "[aq] | [/x]" in output.getvalue()
    assert markdown(grid)[-2] == r"| [aq] \| [/x] | two lines |"
