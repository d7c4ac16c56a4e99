"""Nobody waits for ever: a rank that stands still is missed by the others, in a step and between steps."""

from pathlib import Path

import pytest

from tests.fakes.waiting import WAIT_S
from tests.ranks.started import start_ranks


@pytest.mark.parametrize(
    ("still", "where"),
    [(1, "in a step"), (1, "between steps"), (0, "between steps")],
)
def test_a_rank_that_stands_still_is_missed_in_time(tmp_path: Path, still: int, where: str) -> None:
    processes = start_ranks(2, tmp_path, "still", str(tmp_path), str(tmp_path), str(still), where)
    try:
        assert processes[1 - still].wait(timeout=WAIT_S) == 69
        assert processes[still].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=WAIT_S)
    assert "expected an answer of every rank" in (tmp_path / "lost").read_text()
