"""A run's report as files, report.json, report.md and the pictures, and the launcher's seconds that go into it.

The launcher writes it at the end of a run; without one it is made of the run's directory alone.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from opcod.installed import require_drawing
from opcod.prepare.run_directory import stored_settings
from opcod.report.text import to_markdown
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import STATE_FILE, RunState
from shared.contracts.weights import StepRecord, step_records
from shared.errors import ConfigError, StorageError, reason
from shared.files.durable import atomic_write
from shared.problems.pinned import read_manifest
from shared.results.report import Report, build_report

TIMELINE_FILE = "timeline.json"
WALL = "wall"


@dataclass(frozen=True)
class Spent:
    """Seconds of a run: of the launcher's own stages by name, and wall time."""

    stages: Mapping[str, float]
    wall_s: float


def spent_by(run_dir: Path, state: RunState) -> Spent:
    """Of a run that no launcher of this process is at. Wall time is that of its launchers; a run that never had one, in
    containers, has the time of its statuses."""
    # A launcher keeps its wall time beside its stages, under a name that no stage has.
    stages = _stored(run_dir / TIMELINE_FILE)
    wall_s = stages.pop(WALL, 0.0)
    return Spent(stages, wall_s or sum(state.status_seconds.values()))


class Timeline:
    """Kept in `timeline.json`; wall time counts only while a launcher runs."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / TIMELINE_FILE
        self._started = time.monotonic()
        self.stages = _stored(self._path)
        # Of the launchers before this one: time between them is nobody's.
        self._wall_before = self.stages.pop(WALL, 0.0)

    @property
    def wall_s(self) -> float:
        return self._wall_before + time.monotonic() - self._started

    @property
    def spent(self) -> Spent:
        return Spent(self.stages, self.wall_s)

    def add(self, seconds: Mapping[str, float]) -> None:
        for name, spent in seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + spent
        self._save()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.add({name: time.monotonic() - began})

    def _save(self) -> None:
        atomic_write(self._path, json.dumps({**self.stages, WALL: self.wall_s}, indent=1).encode())


def _stored(path: Path) -> dict[str, float]:
    stored: dict[str, float] = json.loads(path.read_bytes()) if path.exists() else {}
    return stored


REPORT_FILE = "report.json"


def write_report(
    paths: Paths, settings: RunSettings, state: RunState, spent: Spent, restarts: Mapping[str, int]
) -> Report:
    """The report as it stands now; an unfinished run has one too, and it says so."""
    require_drawing()
    from opcod.report.pictures import draw  # matplotlib takes its time, and most commands draw nothing

    directory = report_directory(paths.run_dir)
    directory.mkdir(exist_ok=True)
    steps = [record for student in sorted(settings.students) for record in records_of(paths, student)]
    report = build_report(state, settings, spent.stages, spent.wall_s, restarts, steps, read_manifest(paths.run_dir))
    draw(report, directory)
    # After the pictures, so that whoever finds report.json finds them too.
    atomic_write(directory / REPORT_FILE, report.model_dump_json(indent=1).encode())
    atomic_write(directory / "report.md", to_markdown(report).encode())
    return report


def current_report(paths: Paths) -> Report:
    """The report of a finished run as its launcher wrote it; any other is written anew, from the run's directory.

    Raises ConfigError if the run has not begun, and StorageError for a file that cannot be read.
    """
    before = _stored_report(paths.run_dir)
    if before is not None and before.finished:
        return before
    state = state_of(paths.run_dir)
    # Only a launcher counts restarts, so the last one that was there is believed.
    restarts = before.restarts if before is not None else {}
    return write_report(paths, stored_settings(paths), state, spent_by(paths.run_dir, state), restarts)


def report_directory(run_dir: Path) -> Path:
    return run_dir / "report"


def state_of(run_dir: Path) -> RunState:
    """What the run's broker last wrote. Raises ConfigError for a run that has not begun, StorageError."""
    file = run_dir / STATE_FILE
    try:
        return RunState.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"expected a run that has begun; there is no {file}") from error
    except ValidationError as error:
        raise StorageError(f"{file} does not fit this version of opcod: {reason(error)}") from error


def records_of(paths: Paths, student: str) -> list[StepRecord]:
    """What the broker kept of each step of a student."""
    found = sorted((paths.run_dir / step_records(student)).glob("*.json"))
    return [_record(path) for path in found]


def _record(path: Path) -> StepRecord:
    try:
        return StepRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(f"{path} does not fit this version of opcod: {reason(error)}") from error


def is_finished(run_dir: Path) -> bool:
    """Whether a run has its last report. Raises StorageError for a file that cannot be read."""
    report = _stored_report(run_dir)
    return report is not None and report.finished


def _stored_report(run_dir: Path) -> Report | None:
    """None where there is none, or one of another version, which is written again."""
    try:
        return Report.model_validate_json((report_directory(run_dir) / REPORT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
