"""The log for `inspect view`: inspect-ai reads it back, with the evaluation's own numbers."""

from pathlib import Path
from typing import Any

import pytest

from opcod.report.inspect_log import write_inspect_log
from shared.contracts.jobs import Question, Questions
from shared.problems.formats import format_named
from tests.unit.results.test_evaluation import PROBLEMS, answered, evaluated, result

INSTALL = "the extra `inspect` is not installed; `pip install -c constraints.txt -e '.[inspect]'`"


@pytest.fixture(scope="module")
def inspect_log() -> Any:
    """Its import is a second, which only who runs these tests has to spend."""
    return pytest.importorskip("inspect_ai.log", reason=INSTALL)


@pytest.fixture
def log(tmp_path: Path, inspect_log: Any) -> object:
    return inspect_log.read_eval_log(written(tmp_path))


def written(directory: Path) -> Path:
    form, what = format_named("integer"), evaluated()
    questions = Questions(
        student="a",
        version=what.version,
        samples=what.samples,
        sampling=what.sampling,
        questions=tuple(Question(messages=tuple(form.messages(p)), seed=1) for p in PROBLEMS),
    )
    return write_inspect_log(directory / "logs", result(), PROBLEMS, questions, [answered(p) for p in PROBLEMS], form)


def test_it_has_the_scores_of_the_evaluation(log) -> None:  # type: ignore[no-untyped-def]
    strict, lenient, form, truncated = log.results.scores
    assert [score.name for score in log.results.scores] == ["strict", "lenient", "form", "truncated"]
    for row in result().domains:
        assert strict.metrics[row.domain].value == row.score
        assert strict.metrics[f"{row.domain} majority baseline"].value == row.majority
        assert lenient.metrics[row.domain].value == row.lenient
        assert form.metrics[row.domain].value == row.format_ok
        assert truncated.metrics[row.domain].value == row.truncated


def test_its_samples_give_the_same_scores(log) -> None:  # type: ignore[no-untyped-def]
    assert len(log.samples) == log.results.total_samples == 16
    for row in result().domains:
        of_domain = [sample for sample in log.samples if sample.metadata["domain"] == row.domain]
        for scorer, share in (("strict", row.score), ("lenient", row.lenient), ("truncated", row.truncated)):
            values = [sample.scores[scorer].value for sample in of_domain]
            assert sum(values) / len(values) == pytest.approx(share)


def test_it_names_version_problem_prompt_and_answer(log) -> None:  # type: ignore[no-untyped-def]
    assert (log.eval.model, log.eval.dataset.sample_ids) == ("opcod/a@v2", [p.id for p in PROBLEMS])
    sample = next(sample for sample in log.samples if (sample.id, sample.epoch) == ("p1", 1))
    assert sample.target == "6"
    assert [message.text for message in sample.input] == [PROBLEMS[0].question]
    assert (sample.output.completion, sample.scores["strict"].answer) == (" x = 6", "6")
    cut = next(sample for sample in log.samples if (sample.id, sample.epoch) == ("c1", 4))
    assert cut.output.stop_reason == "max_tokens"


def test_the_same_evaluation_replaces_its_log_where_inspect_finds_it(tmp_path: Path, inspect_log: Any) -> None:
    assert written(tmp_path) == written(tmp_path)
    assert len(inspect_log.list_eval_logs(str(tmp_path / "logs"))) == 1
