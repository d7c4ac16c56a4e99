"""Seconds that the launcher itself spent, by stage, added up over a run's sittings."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.contracts.run import RunState
from shared.files.store import atomic_write

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
    stages = _stored(run_dir / TIMELINE_FILE)
    wall_s = stages.pop(WALL, 0.0)
    return Spent(stages, wall_s or sum(state.status_seconds.values()))


class Timeline:
    """Kept in `timeline.json`; wall time counts only while a launcher runs."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / TIMELINE_FILE
        self._started = time.monotonic()
        self.stages = _stored(self._path)
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
