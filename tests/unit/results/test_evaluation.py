"""The numbers of an evaluation, from answers made by hand."""

import pytest

from shared.contracts.jobs import PromptOutput, Sample
from shared.contracts.messages import Sampling
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from shared.results.evaluation import Evaluation, Subject, evaluate, seen

PROBLEMS = [
    Problem("p1", "physics", "", "Force of 2 kg at 3?", "6"),
    Problem("p2", "physics", "", "Force of 2 kg at 4?", "8"),
    Problem("p3", "physics", "", "Force of 1 kg at 6?", "6"),
    Problem("c1", "chemistry", "", "pOH of pH 3?", "11"),
]
RIGHT_OF_4 = {"p1": 4, "p2": 0, "p3": 2, "c1": 0}


def evaluated(**changes: object) -> Subject:
    fields: dict[str, object] = {
        "run": "r",
        "student": "a",
        "version": "a@v2",
        "checksum": "c" * 64,
        "source": "test",
        "partition": "test",
        "problems": len(PROBLEMS),
        "problems_hash": "d" * 64,
        "format": "integer",
        "samples": 4,
        "sampling": Sampling(temperature=0.6, top_p=0.95, max_tokens=9),
        "seed": 0,
        "seen_in_training": 0,
    }
    return Subject.model_validate(fields | changes)


def answered(problem: Problem) -> PromptOutput:
    """Right ones first; of the wrong ones one is right but for its form, the others are cut."""
    right = [_sample(f" x = {problem.answer}")] * RIGHT_OF_4[problem.id]
    wrong = [_sample(f"It is {problem.answer}.")] + [_sample(" x = 1 * ", "length")] * 3
    return PromptOutput(prompt_token_ids=(1,), samples=tuple([*right, *wrong][:4]))


def _sample(text: str, finish_reason: str = "stop") -> Sample:
    return Sample.model_validate({"text": text, "token_ids": (1,), "logprobs": (0.0,), "finish_reason": finish_reason})


def result() -> Evaluation:
    return evaluate(evaluated(), PROBLEMS, [answered(problem) for problem in PROBLEMS], format_named("integer"))


def test_the_score_is_strict_and_a_mean_over_problems() -> None:
    physics, chemistry = result().domains
    assert (physics.domain, physics.problems, physics.score) == ("physics", 3, 0.5)
    assert physics.interval[0] < 0.5 < physics.interval[1]
    assert (chemistry.score, chemistry.interval) == (0.0, (0.0, 0.0))


def test_beside_it_stand_baseline_lenient_reading_form_and_truncation() -> None:
    physics, chemistry = result().domains
    assert physics.majority == pytest.approx(2 / 3)
    assert physics.lenient == pytest.approx(8 / 12)
    assert physics.format_ok == pytest.approx(6 / 12)
    assert physics.truncated == pytest.approx(4 / 12)
    assert (chemistry.majority, chemistry.lenient, chemistry.truncated) == (1.0, 0.25, 0.75)


def test_every_problem_is_listed_with_its_counts() -> None:
    assert {problem.id: problem.correct for problem in result().problems} == RIGHT_OF_4
    assert result().problems[1].answers.lenient == 1


def test_it_is_the_same_every_time_and_survives_json() -> None:
    assert result() == result() == Evaluation.model_validate_json(result().model_dump_json())


@pytest.mark.parametrize(
    "change", [{"samples": 5}, {"seed": 1}, {"checksum": "e" * 64}, {"problems_hash": "e" * 64}, {"run": "s"}]
)
def test_another_evaluation_has_another_file(change: dict[str, object]) -> None:
    name = evaluated().file_name
    assert name.startswith("a@v2-test-") and name.endswith(".json")
    assert evaluated().file_name == name != evaluated(**change).file_name


def test_a_source_elsewhere_gives_a_plain_name() -> None:
    assert evaluated(source="../my data/set").file_name.startswith("a@v2-my-data-set-test-")


def test_a_problem_of_the_training_set_is_seen_in_other_letters() -> None:
    training = [Problem("t", "physics", "", "FORCE of 2 kg, at 3", "6")]
    assert (seen(PROBLEMS, training), seen(PROBLEMS, [])) == (1, 0)
