"""What is kept of what was made: bounded by weight, the longest unused goes first."""

import pytest

from services.broker.exchange.groups import Recent


def test_what_was_used_longest_ago_goes_first() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key * 3

    def get(key: str) -> str:
        return recent.get(key, lambda: make(key))

    recent: Recent[str, str] = Recent(limit=7, weigh=len)
    assert [get(key) for key in "abab"] == ["aaa", "bbb"] * 2
    assert made == ["a", "b"]
    get("a")
    get("c")  # b was used longest ago
    get("a")
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]


def test_what_is_heavier_than_the_limit_is_not_kept() -> None:
    recent: Recent[str, str] = Recent(limit=2, weigh=len)
    assert recent.get("a", lambda: "12") == "12"
    assert recent.get("b", lambda: "123") == "123"
    assert recent.get("b", lambda: "9") == "9"
    assert recent.get("a", lambda: "8") == "8", "it made way for the heavy one"


def test_nothing_is_kept_of_what_could_not_be_made() -> None:
    recent: Recent[str, int] = Recent(limit=2)

    def fail() -> int:
        raise ValueError("not there")

    with pytest.raises(ValueError, match="not there"):
        recent.get("a", fail)
    assert recent.get("a", lambda: 1) == 1


def test_what_is_dropped_makes_room_and_is_made_again() -> None:
    recent: Recent[str, str] = Recent(limit=8, weigh=len)
    made: list[str] = []

    def make(value: str) -> str:
        made.append(value)
        return value

    for value in ("four", "two", "three"):
        recent.get(value, lambda value=value: make(value))  # type: ignore[misc]
        recent.drop("four")
        recent.drop("never kept")
    assert recent.get("two", lambda: make("two")) == "two", "three would have pushed it out beside four"
    recent.get("four", lambda: make("four"))
    assert made == ["four", "two", "three", "four"]
