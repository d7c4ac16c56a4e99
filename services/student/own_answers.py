"""Draws a student's own answers to the training problems of its domain, and keeps the right ones as examples.

`python -m services.student.own_answers --student a --run-dir R --cache-dir C --examples F` asks the base model through
the student's engine, writes F, a file of examples as a user would bring one, and prints progress and as its last line
{"examples", "cached", "seconds"}. What always holds: C/samples/<key>.jsonl holds all answers, and its name is the hash
of everything that they depend on; what a killed process left beside it is gone on with from its last whole chunk, so
that the answers are those of an undisturbed one; of two processes after the same answers, the second waits.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.student.answer_file import answers, questions_at_once
from services.student.app import build_engine
from services.student.config import StudentConfig
from services.student.engines.port import Engine
from shared.config.environment import ServiceEnvironment
from shared.config.loading import settings_of
from shared.config.settings import RunSettings
from shared.contracts.ids import seed_of, version_name
from shared.contracts.jobs import PromptOutput, Question, Questions
from shared.contracts.models import PreparedModel
from shared.errors import StorageError
from shared.files.durable import atomic_write, locked, storage_errors, sync_directory
from shared.parents import run_service
from shared.problems.loading import problems_of
from shared.problems.problem import Problem, ProblemFormat
from shared.problems.rejection import (
    SAMPLES,
    DrawnAnswer,
    DrawnAnswers,
    keep_right,
    own_problems,
    require_enough,
    require_server_of_ours,
)

DRAW_VERSION = 3
"""Part of the answers' identity; raise it when the drawing itself changes."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class BaseStudent(StudentConfig):
    """A student before it is a specialist: its engine serves the base model."""

    base: Path

    def prepared_model(self) -> PreparedModel:
        """Of no use to anything that asks which weights a version changes: there are no versions yet."""
        return PreparedModel(path=self.base, sha256="")


@dataclass(frozen=True)
class OwnQuestions:
    """What is asked: `problems`, in order, and the `questions` that they make."""

    problems: tuple[Problem, ...]
    questions: Questions

    @property
    def ids(self) -> list[str]:
        return [problem.id for problem in self.problems]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises ConfigError, also where too few answers were right, ModelError or StorageError."""
    parser = argparse.ArgumentParser(prog="own_answers", description="Keep the right answers of a student's own.")
    parser.add_argument("--student", required=True)
    for name in ("--run-dir", "--cache-dir", "--examples"):
        parser.add_argument(name, required=True, type=Path)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    # First, as a name that is none is told in a moment, and the rest loads a model.
    settings_of(given.run_dir).require_student(given.student)
    config = _base_student(given.run_dir, given.cache_dir, given.student)
    settings, sampling = config.settings, config.settings.specialize.sampling
    _require_told_in_text(config)
    problems = problems_of(settings)
    asked = describe(settings, given.student, own_problems(settings, given.student, problems), problems.format)
    drawn, cached = ensure(asked, key_of(asked, config), given.cache_dir, lambda: _engine(config), _say)
    found = keep_right(asked.problems, drawn, problems.format, sampling.keep)
    _say(f"student {given.student}: {len(found.examples)} examples of its own; {found}")
    require_enough(found, sampling, given.student)
    atomic_write(given.examples, "".join(row.model_dump_json() + "\n" for row in found.examples).encode())
    seconds = round(time.monotonic() - started, 1)
    _say(json.dumps({"examples": len(found.examples), "cached": cached, "seconds": seconds}))
    return 0


def describe(settings: RunSettings, student: str, problems: tuple[Problem, ...], form: ProblemFormat) -> OwnQuestions:
    """The prompts that a run asks, each problem's answers seeded by the run's seed and the problem alone."""
    section = settings.specialize.sampling
    questions = Questions(
        student=student,
        version=version_name(student, 0),
        samples=section.samples,
        sampling=section.sampling,
        questions=tuple(
            Question(messages=tuple(form.messages(problem)), seed=seed_of(settings.run.seed, "own", problem.id))
            for problem in problems
        ),
    )
    return OwnQuestions(problems, questions)


def key_of(asked: OwnQuestions, config: BaseStudent) -> str:
    """sha256 (hex) over base model, engine, prompts, seeds and sampling: the name in the cache.

    Not the student's name: in another pair the same model is asked the same as the other student. Nor how many answers
    are kept, nor how they are graded: that is done anew each time.
    """
    # Here and not above: torch takes seconds, and a test of the rest needs none.
    from shared.modeling.saving import model_identity

    section, questions = config.section, asked.questions
    parts = {
        "draw": DRAW_VERSION,
        "base": model_identity(config.base),
        "dtype": section.dtype,
        "chat_template": section.chat_template,
        "engine": section.engine,
        "problems": asked.ids,
        "questions": [question.model_dump(mode="json") for question in questions.questions],
        "samples": questions.samples,
        "sampling": questions.sampling.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def ensure(
    asked: OwnQuestions, key: str, cache_dir: Path, engine: Callable[[], Engine], say: Say
) -> tuple[list[DrawnAnswers], bool]:
    """The answers in the order of the problems, and whether they were there already; draws what is missing.

    engine: builds one; called only where something is missing. Raises StorageError, and what the engine raises.
    """
    target = cache_dir / SAMPLES / f"{key}.jsonl"
    cached = target.is_file()
    if not cached:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whoever waited here finds the file that the other one has made, and looks once more.
        with locked(target.parent / f".{key}.lock"):
            cached = target.is_file()
            if not cached:
                _draw(asked, target, engine, say)
    found = list(_whole_lines(target, asked.ids))
    if len(found) < len(asked.ids):
        raise StorageError(
            f"expected answers to {len(asked.ids)} problems in {target}, found {len(found)} whole ones: it was "
            "damaged; remove it, and they are drawn again"
        )
    return found, cached


def _draw(asked: OwnQuestions, target: Path, build: Callable[[], Engine], say: Say) -> None:
    """Write all answers beside `target`, going on where a killed process ended; name them so when they are complete."""
    partial = target.with_name(f".{target.stem}.partial")
    with closing(build()) as engine:
        engine.load(asked.questions.version, None)
        chunk = questions_at_once(engine, asked.questions.samples)
        done = _kept_of(partial, asked, chunk)
        if done:
            say(f"going on after {done} of {len(asked.problems)} problems")
        rest = asked.questions.model_copy(update={"questions": asked.questions.questions[done:]})
        # Without a buffer a line is with the system once it is written: a process that is killed leaves whole lines but
        # for the last.
        with partial.open("ab", buffering=0) as file:
            for number, output in enumerate(answers(engine, rest), start=done + 1):
                line = _line(asked.problems[number - 1], output)
                with storage_errors(target, len(line)):
                    file.write(line)
                if number % chunk == 0 or number == len(asked.problems):
                    say(f"answers drawn to {number} of {len(asked.problems)} problems")
            os.fsync(file.fileno())
    with storage_errors(target, 0):
        partial.rename(target)
        sync_directory(target.parent)


def _kept_of(partial: Path, asked: OwnQuestions, chunk: int) -> int:
    """Cut what a killed process left to whole chunks; how many problems that is."""
    found = list(_whole_lines(partial, asked.ids)) if partial.exists() else []
    # Rounding depends on what shares a chunk, so a chunk is drawn whole or not at all.
    kept = found[: len(found) // chunk * chunk]
    atomic_write(partial, "".join(each.model_dump_json() + "\n" for each in kept).encode())
    return len(kept)


def _whole_lines(file: Path, ids: Sequence[str]) -> Iterator[DrawnAnswers]:
    """The answers up to the first line that is cut, damaged, or of another problem."""
    lines = file.read_bytes().split(b"\n")
    # What follows the last newline was not written whole.
    for line, problem_id in zip(lines[:-1], ids, strict=False):
        try:
            found = DrawnAnswers.model_validate_json(line)
        except ValidationError:
            return
        if found.problem_id != problem_id:
            return
        yield found


def _line(problem: Problem, output: PromptOutput) -> bytes:
    drawn = [DrawnAnswer(text=sample.text, ended=sample.finish_reason == "stop") for sample in output.samples]
    return DrawnAnswers(problem_id=problem.id, answers=tuple(drawn)).model_dump_json().encode() + b"\n"


def _engine(config: BaseStudent) -> Engine:
    """Raises ConfigError where the server of the settings is to serve what is not made yet."""
    require_server_of_ours(config.settings, config.student)
    return build_engine(config)


def _require_told_in_text(config: BaseStudent) -> None:
    """Raises ModelError."""
    from shared.modeling.chat import require_told_in_text
    from shared.modeling.loading import load_tokenizer
    from shared.modeling.thinking import require_thoughts_in_text

    # A scripted student has no words but those of its script.
    if config.section.engine != "scripted":
        tokenizer = load_tokenizer(config.base, config.section.chat_template)
        require_told_in_text(tokenizer)
        require_thoughts_in_text(tokenizer)


def _base_student(run_dir: Path, cache_dir: Path, student: str) -> BaseStudent:
    """It listens nowhere and has no bus."""
    from shared.modeling.resolving import resolve_model

    settings = settings_of(run_dir)
    environment = ServiceEnvironment(
        run=run_dir.name, run_dir=run_dir, cache_dir=cache_dir, redis_url="", student=student, key_file=None
    )
    base = resolve_model(settings.students[student].model, cache_dir)
    return BaseStudent(environment, settings, None, student, base)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_service(main)
