"""From raw feedback to what is delivered: sharing of identical answers, verdicts, removals, loss."""

import pytest

from services.broker.exchange.judging import distinct, exchanges, judge, verdict_word
from shared.contracts.jobs import JobOutput, PromptOutput
from shared.problems.integer import IntegerFormat
from shared.problems.problem import Problem
from tests.fakes.broker import sample_of

FORMAT = IntegerFormat()
PROBLEM = Problem("p1", "physics", "voltage", "What voltage drives 9 A through a resistance of 2 ohm?", "18")
GOOD = "<concept>voltage</concept> Multiply the current with the resistance."


def answered(*texts: str) -> PromptOutput:
    return PromptOutput(prompt_token_ids=(1,), samples=tuple(sample_of(text) for text in texts))


def said(*texts: str) -> JobOutput:
    return JobOutput(job_id="f", version="b@v0", prompts=tuple(answered(text) for text in texts))


@pytest.mark.parametrize(
    ("share", "texts", "index"),
    [(False, ["x", "y", "x"], [0, 1, 2]), (True, ["x", "y"], [0, 1, 0])],
)
def test_identical_answers_are_sent_once_when_shared(share: bool, texts: list[str], index: list[int]) -> None:
    assert distinct(["x", "y", "x"], share_identical=share) == (texts, index)


def test_each_rollout_gets_the_feedback_on_its_own_text() -> None:
    other = "<concept>resistance</concept> Look at the units again."
    given = exchanges(answered("x", "y", "x"), said(GOOD, other), PROBLEM, FORMAT, share_identical=True)
    assert [exchange.raw for exchange in given] == [GOOD, other, GOOD]
    assert [exchange.verdict for exchange in given] == ["match:voltage", "match:resistance", "match:voltage"]
    apart = exchanges(answered("x", "x"), said(GOOD, other), PROBLEM, FORMAT, share_identical=False)
    assert [exchange.raw for exchange in apart] == [GOOD, other]


def test_feedback_that_never_came_is_lost_for_every_rollout() -> None:
    given = exchanges(answered("x", "y"), None, PROBLEM, FORMAT, share_identical=True)
    assert [(e.verdict, e.raw, e.delivered) for e in given] == [("fb_none", None, None)] * 2


@pytest.mark.parametrize(
    ("raw", "verdict", "delivered"),
    [
        (GOOD, "match:voltage", "Multiply the current with the resistance."),
        ("Multiply them.", "no_concept_tag", None),
        ("<concept>entropy</concept> Multiply them.", "no_match", None),
        ("", "fb_none", None),
    ],
)
def test_only_a_match_is_delivered(raw: str, verdict: str, delivered: str | None) -> None:
    exchange = judge(raw, PROBLEM, FORMAT)
    assert (exchange.verdict, exchange.raw, exchange.delivered) == (verdict, raw, delivered)


def test_an_answer_in_a_feedback_is_not_delivered() -> None:
    exchange = judge("<concept>voltage</concept> The formula is wrong. The answer is 18.", PROBLEM, FORMAT)
    assert exchange.delivered is not None and "18" not in exchange.delivered


@pytest.mark.parametrize("before", ["", "<think>The answer is 18, surely.</think>", "\N{ZERO WIDTH SPACE}"])
def test_what_no_reader_would_miss_does_not_count_as_taken_away(before: str) -> None:
    """Its concept tag, thinking, characters that nobody sees."""
    exchange = judge(before + GOOD, PROBLEM, FORMAT)
    assert (exchange.delivered, exchange.removed) == (judge(GOOD, PROBLEM, FORMAT).delivered, ())


def test_a_revealed_result_is_said_to_have_been_removed() -> None:
    raw = f"{GOOD} The answer is {PROBLEM.answer}."
    exchange = judge(raw, PROBLEM, FORMAT)
    assert exchange.delivered == judge(GOOD, PROBLEM, FORMAT).delivered
    assert exchange.removed == (f" The answer is {PROBLEM.answer}.",)
    assert judge(f"<think>Hm.</think>{raw}", PROBLEM, FORMAT).removed == exchange.removed


def test_verdicts_are_counted_without_their_word() -> None:
    assert [verdict_word(v) for v in ("match:voltage", "no_match", "fb_none")] == ["match", "no_match", "fb_none"]
