"""What a probe asks, from answers made by hand."""

from dataclasses import replace

import pytest

from opcod.probe.questions import (
    Heard,
    Key,
    ProbePlan,
    errors,
    first_questions,
    last_questions,
    plan_probe,
    right_answer,
    taught_answers,
    tutor_questions,
)
from shared.config.loading import load_settings
from shared.contracts.jobs import PromptOutput, Sample
from shared.errors import ProblemSetError
from shared.problems.problem import Judgement, Problem


@pytest.fixture
def what() -> ProbePlan:
    """One problem of each kind, two answers each."""
    return plan_probe(load_settings(preset="smoke", environ={}), per_kind=1, samples=2)


def output(*texts: str) -> PromptOutput:
    samples = [
        Sample(text=text, token_ids=tuple(text.encode()), logprobs=(-0.5,) * len(text), finish_reason="stop")
        for text in texts
    ]
    return PromptOutput(prompt_token_ids=(1, 2), samples=tuple(samples))


def answered(what: ProbePlan, wrong: str, *texts: str) -> Heard:
    """Every problem right, but the first of student a, which it answers so; `RIGHT` stands for its answer."""
    heard = {key: output(f" x = {_problem(what, key).answer}") for key in first_questions(what) if key.what == "plain"}
    first = what.problems[0]
    heard[Key("a", first.id, "plain")] = output(wrong, *(text.replace("RIGHT", first.answer) for text in texts))
    return heard


def _problem(what: ProbePlan, key: Key) -> Problem:
    return next(each for each in what.problems if each.id == key.problem)


def test_problems_are_spread_over_every_kind_and_come_from_training(what: ProbePlan) -> None:
    kinds = [(problem.domain, problem.kind) for problem in what.problems]
    assert len(kinds) == len(set(kinds)) == 20
    assert all("-train-" in problem.id for problem in what.problems)
    more = plan_probe(what.settings, per_kind=3, samples=2)
    assert len(more.problems) == 60


def test_both_students_get_the_same_prompts_with_the_same_seeds(what: ProbePlan) -> None:
    asked = first_questions(what)
    assert len(asked) == 2 * 20 * 3
    for key, question in asked.items():
        assert asked[key._replace(student="b")] == question
    assert len({question.seed for question in asked.values()}) == len(asked) / 2


def test_the_hint_stands_alone_and_the_solution_too(what: ProbePlan) -> None:
    asked, first = first_questions(what), what.problems[0]
    plain, hint, solved = (
        asked[Key("a", first.id, kind)].messages[-1].content for kind in ("plain", "hint", "solution")
    )
    assert plain == first.question
    assert "Feedback:" in hint and "Solved:" not in hint
    assert "Solved:" in solved and "Feedback:" not in solved


def test_a_wrong_answer_is_one_error_however_often_it_came(what: ProbePlan) -> None:
    found = errors(what, answered(what, " x = 0", " x = 0", " x = RIGHT", "no idea"))
    assert [(error.key.student, error.key.number, error.text) for error in found] == [
        ("a", 0, " x = 0"),
        ("a", 1, "no idea"),
    ]


def test_the_tutor_sees_the_error_itself(what: ProbePlan) -> None:
    [error] = errors(what, answered(what, " x = 0"))
    [(key, question)] = tutor_questions(what, [error]).items()
    assert key == error.key and key.what == "feedback"
    assert question.messages[-1].content.endswith("Peer: x = 0")


def test_only_delivered_feedback_is_revised_with_and_it_stands_alone(what: ProbePlan) -> None:
    heard = answered(what, " x = 0", " x = 1", " x = RIGHT")
    wrong = errors(what, heard)
    judged = {
        wrong[0].key: Judgement("match:heater", "Mind the heater.", ()),
        wrong[1].key: Judgement("no_match", None, ()),
    }
    [(key, question)] = last_questions(what, wrong, judged, heard).items()
    assert key == wrong[0].key._replace(what="revision")
    content = question.messages[-1].content
    assert "Feedback: Mind the heater." in content and "Solved:" not in content


def test_the_loss_is_asked_about_what_a_step_would_train_on(what: ProbePlan) -> None:
    none = Judgement("no_match", None, ())
    heard = answered(what, " x = 0", " x = RIGHT")
    [error] = errors(what, heard)
    taught = taught_answers(what, [error], {error.key: none}, heard)[error.key]
    assert f"Solved: x = {what.problems[0].answer}" in taught.teacher_messages[-1].content
    assert taught.token_ids == tuple(b" x = 0") and taught.prompt_token_ids == (1, 2)
    # With neither a right answer of its own nor a feedback there is nothing to train on.
    alone = answered(what, " x = 0")
    assert taught_answers(what, errors(what, alone), {error.key: none}, alone) == {}


def test_without_worked_solutions_a_right_answer_is_shown_as_often_as_asked(what: ProbePlan) -> None:
    bare = replace(what, problems=[replace(problem, solution=None) for problem in what.problems], drawn={})
    assert {key.what for key in first_questions(bare)} == {"plain"}
    heard = answered(bare, " x = 0", " x = 0")
    asked = last_questions(bare, [], {}, heard)
    first = bare.problems[0]
    mine = [asked[key] for key in asked if key.student == "a" and key.problem == first.id]
    # Its own are all wrong, so the peer's is shown.
    assert len(mine) == 2 == len({question.seed for question in mine})
    assert f"Solved: x = {first.answer}" in mine[0].messages[-1].content


def test_an_answer_that_is_all_thinking_shows_nothing(what: ProbePlan) -> None:
    first = what.problems[0]
    heard = answered(what, "<think> x = RIGHT".replace("RIGHT", first.answer), " y = RIGHT")
    assert right_answer(what, heard, "a", first) == f" y = {first.answer}"


def test_a_problem_set_that_cannot_be_used_is_refused_as_a_run_refuses_it(tmp_path: object) -> None:
    settings = load_settings(preset="smoke", overrides=[f"problems.source={tmp_path}"], environ={})
    with pytest.raises(ProblemSetError, match=r"train\.jsonl"):
        plan_probe(settings, per_kind=1, samples=1)
