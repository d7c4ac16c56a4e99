"""Rows with numbers: what JSON does not have, and what no reader of it holds."""

import json
from pathlib import Path

import pytest

from shared.errors import ProblemSetError
from shared.problems.jsonl import read_rows
from shared.problems.sciknoweval import RawRow
from tests.fakes.sciknoweval import plain


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("[NaN]", "expected JSON, got NaN, which JSON does not have"),
        ("[-Infinity]", "expected JSON, got -Infinity, which JSON does not have"),
        ("[" + "9" * 5000 + "]", "nested too deeply, or with a number that is too long"),
        ('["1.5"]', "embedding.0: expected a valid number, got '1.5'"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, numbers: str, message: str) -> None:
    row = json.dumps(plain(0, 1, "lens")[0]).replace('"embedding": []', f'"embedding": {numbers}')
    (tmp_path / "rows.json").write_text(row)
    with pytest.raises(ProblemSetError) as refused:
        list(read_rows(tmp_path / "rows.json", RawRow))
    assert message in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
