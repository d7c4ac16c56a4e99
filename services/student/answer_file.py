"""Answers questions from a file with one version of a student: no bus, no broker, nothing else up.

`python -m services.student.answer_file --run-dir R --cache-dir C --questions F --answers G` reads `Questions` from F,
writes a `PromptOutput` a line to G, and prints as its last line {"checksum"} of the version's tensors. What always
holds: the version is verified as a student verifies it, and the same questions on the same machine get the same
answers.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from services.student.app import build_engine, build_loader
from services.student.config import StudentConfig, student_config
from services.student.engines.port import Engine, GenerationRequest
from services.student.work.generation import prompt_output
from shared.config.environment import ServiceEnvironment
from shared.contracts.ids import seed_of
from shared.contracts.jobs import PromptOutput, Question, Questions
from shared.parents import run_service

CALLS_OF_SLOTS = 4
"""Sequences of one engine call, in slots: enough to put prompts of like length together, few enough to see progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises ConfigError, ModelError, or VersionRefusedError for a version it cannot trust."""
    parser = argparse.ArgumentParser(prog="answering", description="Answer questions with one version of a student.")
    for name in ("--run-dir", "--cache-dir", "--questions", "--answers"):
        parser.add_argument(name, required=True, type=Path)
    given = parser.parse_args(arguments)
    asked = Questions.model_validate_json(given.questions.read_bytes())
    config = _config(given.run_dir, given.cache_dir, asked.student)
    with closing(build_engine(config)) as engine:
        checksum = build_loader(config, engine).load(asked.version)
        # A line at a time: whoever waits counts them.
        with given.answers.open("w", buffering=1, encoding="utf-8") as file:
            file.writelines(output.model_dump_json() + "\n" for output in answers(engine, asked))
    sys.stdout.write(json.dumps({"checksum": checksum}) + "\n")
    return 0


def answers(engine: Engine, asked: Questions) -> Iterator[PromptOutput]:
    """The outputs, in the order of the questions; the version must be loaded."""
    at_once = questions_at_once(engine, asked.samples)
    for first in range(0, len(asked.questions), at_once):
        chunk = asked.questions[first : first + at_once]
        generations = iter(engine.generate([request for question in chunk for request in _requests(question, asked)]))
        for _ in chunk:
            yield prompt_output([next(generations) for _ in range(asked.samples)])


def questions_at_once(engine: Engine, samples: int) -> int:
    """Of one engine call. By slots and samples alone, so that the same questions are batched, and rounded, alike."""
    return max(1, CALLS_OF_SLOTS * engine.slots // samples)


def _requests(question: Question, asked: Questions) -> Iterator[GenerationRequest]:
    for sample in range(asked.samples):
        yield GenerationRequest(asked.version, question.messages, asked.sampling, seed_of(question.seed, sample))


def _config(run_dir: Path, cache_dir: Path, student: str) -> StudentConfig:
    """Of a student that listens nowhere and has no bus."""
    return student_config(
        ServiceEnvironment(
            run=run_dir.name,
            run_dir=run_dir,
            cache_dir=cache_dir,
            redis_url="",
            student=student,
            host="127.0.0.1",
            key_file=None,
        )
    )


if __name__ == "__main__":
    run_service(main)
