"""Seconds that the launcher itself spent, by stage, added up over a run's sittings."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shared.blobs.local import atomic_write

TIMELINE_FILE = "timeline.json"
WALL = "wall"


class Timeline:
    """Kept in `timeline.json`; wall time counts only while a launcher runs."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / TIMELINE_FILE
        self._started = time.monotonic()
        stored: dict[str, float] = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        self._wall_before = stored.pop(WALL, 0.0)
        self.stages = stored

    @property
    def wall_s(self) -> float:
        return self._wall_before + time.monotonic() - self._started

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
