"""Who speaks of several that may: the best in the domain, its specialist, or the next one; ties go by name."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.tutoring import TutorChoice, choose_tutor

STRONG = {"a": "x", "b": "y", "c": "y", "d": "z"}
PEERS = ("b", "c", "d")  # of a


def choose(choice: TutorChoice, able: str, domain: str = "y", **scores: int) -> str | None:
    exact = {name: Fraction(scores.get(name, 0), 10) for name in STRONG}
    return choose_tutor(choice, list(able), peers=PEERS, domain=domain, strong_domain=STRONG, scores=exact)


@pytest.mark.parametrize(
    ("choice", "able", "domain", "scores", "speaks"),
    [
        (TutorChoice.BEST, "bcd", "y", {"b": 3, "c": 4, "d": 5}, "d"),
        (TutorChoice.BEST, "cb", "y", {"b": 4, "c": 4}, "b"),
        (TutorChoice.BEST, "c", "y", {"b": 4}, "c"),
        (TutorChoice.OWN_DOMAIN, "bcd", "y", {"b": 3, "c": 4, "d": 5}, "c"),
        (TutorChoice.OWN_DOMAIN, "d", "y", {"d": 5}, None),
        (TutorChoice.OWN_DOMAIN, "bcd", "x", {}, None),
        (TutorChoice.RING, "bcd", "z", {"d": 5}, "b"),
        (TutorChoice.RING, "cd", "z", {"d": 5}, None),
    ],
)
def test_who_speaks(choice: TutorChoice, able: str, domain: str, scores: dict[str, int], speaks: str | None) -> None:
    assert choose(choice, able, domain, **scores) == speaks


@pytest.mark.parametrize("choice", TutorChoice)
def test_nobody_speaks_where_nobody_may(choice: TutorChoice) -> None:
    assert choose(choice, "") is None


@pytest.mark.parametrize("choice", TutorChoice)
def test_the_only_peer_speaks_whatever_the_problem_is(choice: TutorChoice) -> None:
    scores = dict.fromkeys("ab", Fraction(0))
    assert choose_tutor(choice, ["b"], peers=("b",), domain="x", strong_domain=STRONG, scores=scores) == "b"


@given(able=st.sets(st.sampled_from(PEERS)), choice=st.sampled_from(TutorChoice), domain=st.sampled_from("xyz"))
def test_only_who_may_is_chosen(able: set[str], choice: TutorChoice, domain: str) -> None:
    chosen = choose(choice, "".join(sorted(able)), domain)
    assert chosen is None or chosen in able
