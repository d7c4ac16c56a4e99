"""The naive feedback prompt: another request and no anchor; everything else stays as in `mcq`."""

import json
from pathlib import Path

import pytest

from services.broker.config import load_problems
from shared.config.loading import load_settings
from shared.errors import ConfigError
from shared.problems.formats import format_named
from shared.problems.mcq import McqFormat
from shared.problems.naive import NaiveMcqFormat, with_prompt
from shared.problems.problem import Problem

QUESTION = "Which force slows the pendulum?\n\nA: drag\nB: lift\nPlease reason step by step."
PROBLEM = Problem("p", "physics", "k", QUESTION, "A")
NAIVE, ANCHORED = with_prompt(format_named("mcq"), "naive"), format_named("mcq")


@pytest.mark.parametrize(
    ("raw", "verdict", "delivered"),
    [
        ("Look at the air around it again.", "unanchored", "Look at the air around it again."),
        ("<concept>entropy</concept> Look again.", "unanchored", "Look again."),
        ("Look again. The correct option is A.", "unanchored", "Look again."),
        ("The correct option is A.", "fb_none", None),
        ("", "fb_none", None),
        (None, "fb_none", None),
    ],
)
def test_whatever_is_left_after_sanitizing_is_delivered(raw: str | None, verdict: str, delivered: str | None) -> None:
    assert NAIVE.process_feedback(raw, PROBLEM) == (verdict, delivered)


def test_the_tutor_is_not_asked_for_a_concept() -> None:
    def asked(format_: object) -> str:
        [turn] = format_.feedback_messages(PROBLEM, "It is B.", peer_domain="physics", agent_domain="biology")  # type: ignore[attr-defined]
        return str(turn.content)

    naive, anchored = asked(NAIVE), asked(ANCHORED)
    assert "<concept>" in anchored and "concept" not in naive
    for part in ("Which force slows the pendulum?", "It is B.", "physics", "biology"):
        assert part in naive


def test_a_batch_tells_which_prompt_it_was_made_with() -> None:
    assert NAIVE.template_hash != ANCHORED.template_hash
    assert NAIVE.messages(PROBLEM) == ANCHORED.messages(PROBLEM)


def test_a_format_without_a_naive_prompt_is_refused() -> None:
    assert with_prompt(format_named("integer"), "anchored") is format_named("integer")
    with pytest.raises(ConfigError, match="expected the format mcq for the naive feedback prompt, got integer"):
        with_prompt(format_named("integer"), "naive")


def test_the_broker_takes_the_format_that_the_settings_ask_for(tmp_path: Path) -> None:
    for partition in ("train", "validation", "test"):
        rows = [
            {"id": f"{partition}-{domain}", "domain": domain, "kind": "k", "question": QUESTION, "answer": "A"}
            for domain in ("physics", "chemistry")
        ]
        distinct = [row | {"question": f"{row['id']}: {QUESTION}"} for row in rows]
        (tmp_path / f"{partition}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in distinct))
    source = (f"problems.source={tmp_path}", "problems.format=mcq")
    for prompt, kind in (("anchored", McqFormat), ("naive", NaiveMcqFormat)):
        settings = load_settings(preset="smoke", overrides=[*source, f"feedback.prompt={prompt}"], environ={})
        assert type(load_problems(settings).format) is kind
