"""The multiple-choice format with the naive feedback prompt."""

import pytest

from services.broker.exchange.judging import judge
from shared.config.loading import load_settings
from shared.errors import ConfigError
from shared.problems.formats import format_named
from shared.problems.loading import load_problems
from tests.unit.problems.test_mcq import PROBLEM

NAIVE, ANCHORED = format_named("mcq", "naive"), format_named("mcq")


def test_only_the_tutor_s_prompt_and_the_verdict_differ() -> None:
    asked = NAIVE.feedback_messages(PROBLEM, "It is A.", peer_domain="physics", agent_domain="chemistry")
    assert "concept" not in asked[-1].content
    assert "It is A." in asked[-1].content and "physics" in asked[-1].content
    assert NAIVE.messages(PROBLEM) == ANCHORED.messages(PROBLEM)
    assert NAIVE.template_hash != ANCHORED.template_hash


@pytest.mark.parametrize(
    ("raw", "verdict", "delivered"),
    [
        ("Look at the energy again.", "unanchored", "Look at the energy again."),
        ("Look again. Final answer: B", "unanchored", "Look again."),
        ("<concept>entropy</concept> Look again.", "unanchored", "Look again."),
        ("**B**", "fb_none", None),
        ("", "fb_none", None),
        ("<think>never closed", "fb_none", None),
    ],
)
def test_what_is_left_after_sanitizing_is_delivered(raw: str, verdict: str, delivered: str | None) -> None:
    exchange = judge(raw, PROBLEM, NAIVE)
    assert (exchange.verdict, exchange.delivered) == (verdict, delivered)


def test_a_format_with_one_prompt_has_no_naive_one() -> None:
    with pytest.raises(ConfigError, match="a problem format with a naive feedback prompt of mcq, got 'integer'"):
        format_named("integer", "naive")


def test_a_run_s_problems_have_the_prompt_that_its_settings_name() -> None:
    settings = load_settings(preset="smoke", environ={})
    assert load_problems(settings).format is format_named("integer")
