"""Asking students that nobody serves: a process each loads a version, answers the questions of a file, and ends.

What always holds: no bus and no broker are needed, and what a process leaves besides its answers goes with it.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from opcod.local.gpus import Shares, visible
from opcod.local.processes import SILENT_S, ProcessSpec, launch, require_success, result_line, until_ended
from shared.config.settings import Paths
from shared.contracts.jobs import PromptOutput, Questions
from shared.gpus import VISIBLE

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """One output a question, in order; checksum: of the tensors that answered."""

    outputs: list[PromptOutput]
    checksum: str


def answer(
    paths: Paths,
    asked: Sequence[Questions],
    progress: Progress,
    stopped: Callable[[], bool],
    shares: Shares | None = None,
) -> list[Answers]:
    """The answers to each of `asked`, all at once. shares: GPUs by service, where each is to see its own alone.

    Raises ConfigError or OpcodError with the end of a log, StoppedError once `stopped` says so.
    """
    with ExitStack() as directories:
        places = [Path(directories.enter_context(tempfile.TemporaryDirectory(prefix="opcod-"))) for _ in asked]
        running = [
            launch(_spec(paths, questions, place, shares or {})) for questions, place in zip(asked, places, strict=True)
        ]
        until_ended(
            running,
            f"answering with {' and '.join(questions.version for questions in asked)}",
            timeout_s=SILENT_S,
            report=lambda: progress(_standing(asked, places)),
            stopped=stopped,
            progress=lambda: [_written(place) for place in places],
        )
        return [
            _answers(questions, place, process.returncode)
            for questions, place, process in zip(asked, places, running, strict=True)
        ]


def _spec(paths: Paths, questions: Questions, place: Path, shares: Shares) -> ProcessSpec:
    (place / "questions.json").write_text(questions.model_dump_json(), encoding="utf-8")
    arguments = ["--run-dir", str(paths.run_dir), "--cache-dir", str(paths.cache_dir)]
    arguments += ["--questions", str(place / "questions.json"), "--answers", str(place / "answers.jsonl")]
    service = f"student-{questions.student}"
    environment = {VISIBLE: visible(shares[service])} if service in shares else {}
    return ProcessSpec("answering", "services.student.answer_file", place / "log", environment, arguments)


def _standing(asked: Sequence[Questions], places: Sequence[Path]) -> str:
    return ", ".join(
        f"{questions.version}: {_lines(place / 'answers.jsonl')} of {len(questions.questions)} questions answered"
        for questions, place in zip(asked, places, strict=True)
    )


def _answers(questions: Questions, place: Path, code: int) -> Answers:
    require_success(f"answering with {questions.version}", code, place / "log")
    with (place / "answers.jsonl").open(encoding="utf-8") as lines:
        outputs = [PromptOutput.model_validate_json(line) for line in lines]
    return Answers(outputs, json.loads(result_line(place / "log", '{"checksum"'))["checksum"])


def _written(place: Path) -> int:
    """Bytes of answers so far."""
    file = place / "answers.jsonl"
    return file.stat().st_size if file.exists() else 0


def _lines(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.exists() else 0
