"""Questions from a file: the same answers every time, from a version that was verified."""

import json
from pathlib import Path

import pytest

from services.student.answer_file import answers, main
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.weights.loader import VersionRefusedError
from shared.contracts.ids import seed_of
from shared.contracts.jobs import PromptOutput, Question, Questions
from shared.contracts.messages import ChatMessage, Sampling
from shared.problems.problem import Problem
from tests.fakes.student import config_in, publish_version

PROBLEMS = [Problem(f"p{n}", "physics", "", f"What is {n} + 1?", str(n + 1)) for n in range(5)]
SAMPLING = Sampling(temperature=1, top_p=1, max_tokens=64)


def asked(problems: list[Problem], *, version: str = "a@v0", samples: int = 3) -> Questions:
    questions = [
        Question(messages=(ChatMessage(role="user", content=problem.question),), seed=seed_of(problem.id))
        for problem in problems
    ]
    return Questions(student="a", version=version, samples=samples, sampling=SAMPLING, questions=tuple(questions))


def engine(slots: int) -> ScriptedEngine:
    scripted = ScriptedEngine(Script(problems=PROBLEMS), slots=slots)
    scripted.load("a@v0", None)
    return scripted


def texts(outputs: list[PromptOutput]) -> list[list[str]]:
    return [[sample.text for sample in output.samples] for output in outputs]


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_answers_come_in_order_however_many_run_at_once(slots: int) -> None:
    outputs = texts(list(answers(engine(slots), asked(PROBLEMS))))
    assert [len(samples) for samples in outputs] == [3] * len(PROBLEMS)
    assert outputs == texts(list(answers(engine(7), asked(PROBLEMS))))


def test_a_questions_answers_do_not_depend_on_the_others() -> None:
    every, one = texts(list(answers(engine(8), asked(PROBLEMS)))), texts(list(answers(engine(8), asked(PROBLEMS[3:4]))))
    assert one == every[3:4]


def test_samples_of_a_question_have_seeds_of_their_own() -> None:
    [samples] = texts(list(answers(engine(8), asked(PROBLEMS[:1], samples=20))))
    assert len(set(samples)) > 1


def call(run_dir: Path, questions: Questions) -> Path:
    (run_dir / "questions.json").write_text(questions.model_dump_json())
    files = ["--questions", str(run_dir / "questions.json"), "--answers", str(run_dir / "answers.jsonl")]
    assert main(["--run-dir", str(run_dir), "--cache-dir", str(run_dir), *files]) == 0
    return run_dir / "answers.jsonl"


def test_the_process_answers_with_a_published_version_and_names_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "test"
    config_in(run_dir)
    manifest = publish_version(run_dir, 2)
    lines = call(run_dir, asked(PROBLEMS, version="a@v2")).read_text().splitlines()
    assert [len(PromptOutput.model_validate_json(line).samples) for line in lines] == [3] * len(PROBLEMS)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"checksum": manifest.checksum}


def test_a_version_that_was_changed_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "test"
    config_in(run_dir)
    publish_version(run_dir, 2, checksum="d" * 64)
    with pytest.raises(VersionRefusedError, match="a@v2"):
        call(run_dir, asked(PROBLEMS, version="a@v2"))
    assert not (run_dir / "answers.jsonl").exists()
