"""Before ranks are started: a GPU for each, and none for two."""

import pytest

from services.trainer.ranks.launching import cards_for, is_rank
from shared.errors import ConfigError
from shared.gpus import VISIBLE


@pytest.mark.parametrize(("visible", "ranks", "cards"), [("", 2, 0), ("-1", 2, 0), ("0,1", 2, 2), ("4,5,6", 2, 3)])
def test_there_is_a_gpu_for_each_or_none(monkeypatch: pytest.MonkeyPatch, visible: str, ranks: int, cards: int) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert cards_for(ranks) == cards


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ("0", r"trainer\.ranks: expected a GPU for each of 2 ranks, this process was given 1"),
        ("3,3", r"expected each GPU once, got 3,3"),
    ],
)
def test_ranks_that_would_share_one_are_refused(monkeypatch: pytest.MonkeyPatch, visible: str, said: str) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    with pytest.raises(ConfigError, match=said):
        cards_for(2)


def test_a_rank_is_what_the_agent_has_started() -> None:
    assert is_rank({"TORCHELASTIC_RUN_ID": "trainer-a-0", "RANK": "0"})
    assert not is_rank({"RANK": "0"})
