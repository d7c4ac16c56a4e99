"""docs/faults.md tells the truth: every row has a test of its name, or names tests that exist, or says why not yet."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = tuple(f"F{number}" for number in range(1, 97))
NOT_YET: frozenset[str] = frozenset()

_ROW = re.compile(r"^\| (F\d+) \|(.*)\| ([^|]*) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def table() -> dict[str, str]:
    """Where each row is tested."""
    return {row: where for row, _, where in _ROW.findall((ROOT / "docs" / "faults.md").read_text())}


@cache
def defined_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def named() -> set[str]:
    """Rows in the names of tests."""
    names = [name for path in (ROOT / "tests").rglob("test_*.py") for name in defined_in(path)]
    return {f"F{number}" for name in names for number in re.findall(r"(?<=_)f(\d+)(?=_)", name)}


def test_every_row_is_in_the_table() -> None:
    assert tuple(table()) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_tested_where_the_table_says(row: str) -> None:
    where = table()[row]
    elsewhere = _TEST.findall(where)
    for path, name in elsewhere:
        assert name in defined_in(ROOT / path), f"{row}: {path} has no {name}"
    assert ("by name" in where) == (row in named()), f"{row}: `by name` and test_{row.lower()}_… go together"
    assert ("not yet" in where) == (row in NOT_YET)
    assert "by name" in where or elsewhere or row in NOT_YET, f"{row} is not tested"


def test_what_the_security_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    found = _TEST.findall(page)
    assert len(found) > 20
    missing = [f"{path}::{name}" for path, name in found if name not in defined_in(ROOT / path)]
    assert not missing, f"docs/security.md names tests that are not there: {missing}"
