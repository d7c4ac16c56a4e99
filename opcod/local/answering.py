"""Asking one version of a student, which need not be up: the process that answers, and what it is to answer."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opcod.local.processes import ProcessSpec, launch, log_tail, require_success, until_ended
from shared.config.settings import Paths
from shared.contracts.ids import parse_version, version_name
from shared.contracts.jobs import PromptOutput, Questions
from shared.errors import ConfigError
from shared.files.retention import versions_on_disk

TIMEOUT_S = 12 * 3600.0
"""Longer than an 8B model on one GPU takes for the paper's test problems; an answer that hangs ends here."""


def resolve_version(paths: Paths, students: Sequence[str], asked: str) -> str:
    """`a` is the newest published version, `a@v0` the base model. Raises ConfigError for what is not there."""
    student, at, _ = asked.partition("@")
    if student not in students:
        raise ConfigError(f"--student: expected one of {', '.join(students)}, or such as a@v12, got {asked!r}")
    published = published_steps(paths, student)
    if not at:
        return version_name(student, max(published, default=0))
    try:
        steps = parse_version(asked)[1]
    except ValueError as error:
        raise ConfigError(f"--student: {error}") from error
    if steps and steps not in published:
        there = f"0 and {published[0]} to {published[-1]}" if published else "0, the base model"
        raise ConfigError(
            f"--student: {asked} is not published in {paths.run_dir / 'weights'}, or was pruned; there is {there}"
        )
    return version_name(student, steps)


def published_steps(paths: Paths, student: str) -> list[int]:
    """Steps of the versions that lie there whole, in order; not of pruned ones."""
    return sorted(versions_on_disk(paths.run_dir, student))


@dataclass(frozen=True)
class Answers:
    """One output a question, in order; checksum: of the tensors that answered."""

    outputs: list[PromptOutput]
    checksum: str


def answer(paths: Paths, questions: Questions, progress: Callable[[str], None], stopped: Callable[[], bool]) -> Answers:
    """Ask a process that loads the version, answers and ends.

    Raises ConfigError or OpcodError with the end of its log, StoppedError once `stopped` says so.
    """
    with tempfile.TemporaryDirectory(prefix="opcod-") as directory:
        asked, answered, log_file = (Path(directory) / name for name in ("questions.json", "answers.jsonl", "log"))
        asked.write_text(questions.model_dump_json(), encoding="utf-8")
        places = ["--run-dir", str(paths.run_dir), "--cache-dir", str(paths.cache_dir)]
        files = ["--questions", str(asked), "--answers", str(answered)]
        process = launch(ProcessSpec("answering", "services.student.answering", log_file, arguments=[*places, *files]))
        what = f"answering with {questions.version}"
        until_ended(
            [process],
            what,
            timeout_s=TIMEOUT_S,
            report=lambda: progress(f"{_lines(answered)} of {len(questions.questions)} problems answered"),
            stopped=stopped,
        )
        require_success(what, process.returncode, log_file)
        with answered.open(encoding="utf-8") as lines:
            outputs = [PromptOutput.model_validate_json(line) for line in lines]
        return Answers(outputs, json.loads(log_tail(log_file, lines=1))["checksum"])


def _lines(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.exists() else 0
