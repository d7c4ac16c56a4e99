"""The self-teacher's prompt: what it holds in each of the four cases, who shows whom, and the token budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.reprompt import (
    DEFAULT_TEMPLATE,
    TEMPLATE_HASH,
    FitEvent,
    Message,
    RepromptTemplate,
    fit,
    loss_mask,
    pick_demonstrations,
    teacher_messages,
    template_hash,
)
from shared.method.scores import ScoreError

MESSAGES = [{"role": "system", "content": "\nBe terse.\n"}, {"role": "user", "content": "Which {option}?"}]


def content(solution: str | None, feedback: str | None) -> str:
    messages = teacher_messages(MESSAGES, solution=solution, feedback=feedback)
    assert messages[0] == MESSAGES[0]
    return messages[-1]["content"]


def test_both_sections_in_order() -> None:
    assert content("It is B.", "Mind the sign.") == (
        "Which {option}?"
        f"\n{DEFAULT_TEMPLATE.solution_heading}\n\nIt is B."
        f"\n{DEFAULT_TEMPLATE.feedback_heading}\n\nMind the sign."
        f"\n\n{DEFAULT_TEMPLATE.instruction}"
    )


def test_each_section_alone() -> None:
    assert DEFAULT_TEMPLATE.feedback_heading not in content("It is B.", None)
    assert DEFAULT_TEMPLATE.solution_heading not in content(None, "Mind the sign.")


@pytest.mark.parametrize("absent", [None, "", " \n"])
def test_with_neither_the_messages_are_unchanged(absent: str | None) -> None:
    assert teacher_messages(MESSAGES, solution=absent, feedback=absent) == MESSAGES


def test_the_given_messages_are_not_touched() -> None:
    before = [dict(message) for message in MESSAGES]
    teacher_messages(MESSAGES, solution="s", feedback="f")[-1]["content"] = "overwritten"
    assert before == MESSAGES


def test_control_tokens_and_thinking_do_not_reach_the_teacher() -> None:
    text = content("<think>B, B, B</think>It is B.<|im_end|>", "Hm.<|im_start|>system")
    assert "<|" not in text and "im_end" in text and "im_start" in text
    assert "B, B, B" not in text
    kept = teacher_messages(MESSAGES, solution="<think>x</think>B", feedback=None, remove_thinking=False)
    assert "<think>x</think>B" in kept[-1]["content"]


def test_a_demonstration_of_thinking_only_counts_as_absent() -> None:
    assert teacher_messages(MESSAGES, solution="<think>never closed", feedback=None) == MESSAGES


@pytest.mark.parametrize("messages", [[], [{"role": "system", "content": "x"}]])
def test_messages_must_end_with_the_question(messages: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="user's question"):
        teacher_messages(messages, solution="s", feedback=None)


def test_the_hash_follows_every_text_of_the_template() -> None:
    assert template_hash(RepromptTemplate()) == TEMPLATE_HASH
    others = [
        RepromptTemplate(solution_heading="x"),
        RepromptTemplate(feedback_heading="x"),
        RepromptTemplate(instruction="x"),
    ]
    assert len({TEMPLATE_HASH, *map(template_hash, others)}) == 4


@pytest.mark.parametrize(
    ("rewards", "exclude_self", "expected"),
    [
        ([0, 1, 1, 0], True, [1, 2, 1, 1]),
        ([0, 1, 1, 0], False, [1, 1, 1, 1]),
        ([0, 1, 0], True, [1, None, 1]),
        ([0, 1, 0], False, [1, 1, 1]),
        ([0, 0], True, [None, None]),
        ([], True, []),
    ],
)
def test_pick_demonstrations(rewards: list[float], exclude_self: bool, expected: list[int | None]) -> None:
    assert pick_demonstrations(rewards, exclude_self=exclude_self) == expected


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=16))
def test_a_demonstration_is_the_first_correct_rollout_other_than_oneself(rewards: list[float]) -> None:
    for j, picked in enumerate(pick_demonstrations(rewards)):
        others = [i for i, reward in enumerate(rewards) if reward == 1.0 and i != j]
        assert picked == (others[0] if others else None)


def test_a_reward_that_is_none_is_an_error() -> None:
    with pytest.raises(ScoreError, match="reward 1"):
        pick_demonstrations([1.0, float("nan")])


def test_loss_mask_in_the_four_cases() -> None:
    assert loss_mask([0, 0, None, None], ["f", None, "f", None]) == [1, 1, 1, 0]
    assert loss_mask([None], [" \n"]) == [0]
    with pytest.raises(ScoreError, match="sample order"):
        loss_mask([None], [])


def count(messages: list[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


SOLUTION = "START " + "middle " * 200 + "END"
FEEDBACK = "Mind the sign. " * 20


def cost(solution: str | None, feedback: str | None) -> int:
    return count(teacher_messages(MESSAGES, solution=solution, feedback=feedback))


@pytest.mark.parametrize(
    ("budget", "events", "mask"),
    [
        (10_000, (), 1),
        (cost(SOLUTION, FEEDBACK) - 1, (FitEvent.SOLUTION_SHORTENED,), 1),
        (cost(None, FEEDBACK) + 20, (FitEvent.FEEDBACK_DROPPED, FitEvent.SOLUTION_SHORTENED), 1),
        (60, (FitEvent.FEEDBACK_DROPPED, FitEvent.SOLUTION_DROPPED), 0),
        (0, (FitEvent.FEEDBACK_DROPPED, FitEvent.SOLUTION_DROPPED), 0),
    ],
    ids=["fits", "shorten", "drop-feedback", "drop-both", "even-the-question-is-over"],
)
def test_fit(budget: int, events: tuple[FitEvent, ...], mask: int) -> None:
    fitted = fit(MESSAGES, solution=SOLUTION, feedback=FEEDBACK, budget=budget, count=count)
    assert (fitted.events, fitted.mask) == (events, mask)
    assert fitted.messages == teacher_messages(MESSAGES, solution=fitted.solution, feedback=fitted.feedback)
    assert count(fitted.messages) <= budget or fitted.messages == MESSAGES


def test_fit_cuts_the_middle_of_the_demonstration_and_no_more_than_needed() -> None:
    budget = cost(SOLUTION, FEEDBACK) - 100
    fitted = fit(MESSAGES, solution=SOLUTION, feedback=FEEDBACK, budget=budget, count=count)
    assert fitted.solution is not None
    assert fitted.solution.startswith("START") and fitted.solution.endswith("END")
    assert count(fitted.messages) == budget


def test_fit_keeps_a_whole_demonstration_that_fits_without_the_feedback() -> None:
    long_feedback = "Mind the sign. " * 200
    fitted = fit(MESSAGES, solution="It is B.", feedback=long_feedback, budget=300, count=count)
    assert (fitted.solution, fitted.events) == ("It is B.", (FitEvent.FEEDBACK_DROPPED,))


@pytest.mark.parametrize("solution", [None, ""])
def test_fit_drops_a_feedback_that_stands_alone(solution: str | None) -> None:
    fitted = fit(MESSAGES, solution=solution, feedback=FEEDBACK, budget=100, count=count)
    assert (fitted.messages, fitted.mask) == (MESSAGES, 0)
    assert fitted.events == (FitEvent.FEEDBACK_DROPPED,)


def test_fit_with_nothing_to_show_reports_nothing() -> None:
    fitted = fit(MESSAGES, solution=None, feedback=None, budget=0, count=count)
    assert (fitted.messages, fitted.mask, fitted.events) == (MESSAGES, 0, ())


@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 900))
def test_fit_never_exceeds_the_budget_by_what_it_adds(solution: str, feedback: str, budget: int) -> None:
    fitted = fit(MESSAGES, solution=solution, feedback=feedback, budget=budget, count=count)
    assert count(fitted.messages) <= budget or fitted.messages == MESSAGES
    assert fitted.mask == int(fitted.messages != MESSAGES)
