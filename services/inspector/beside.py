"""Other runs of the same directory, to be looked at beside this one: their scores, out of their own state.

What always holds: only `state.json` of a folder beside the run's own is read, and never through a link.
"""

import re
from pathlib import Path

from pydantic import ValidationError

from services.inspector.intervals import score_interval
from services.inspector.run_view import ScorePoint
from shared.config.environment import RUN_NAME
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import NotFoundError, StorageError


class OtherRuns:
    """The runs beside `run_dir`; none where only this run's folder is there, as in containers."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir.absolute()

    def names(self) -> list[str]:
        try:
            folders = sorted(self._run_dir.parent.iterdir())
        except OSError:
            return []
        return [path.name for path in folders if path != self._run_dir and _is_run(path)]

    def scores(self, name: str) -> list[ScorePoint]:
        """Every evaluation of that run, in order. Raises NotFoundError, StorageError."""
        if name not in self.names():
            raise NotFoundError(
                f"there is no run {name[:80]!r} beside {self._run_dir.name}; the page lists those there are"
            )
        path = self._run_dir.parent / name / STATE_FILE
        try:
            state = RunState.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise StorageError(
                f"the state of {name} cannot be read ({first}); another version may have made it"
            ) from error
        return [
            ScorePoint(
                student=score.student,
                version=score.version,
                split=score.split.value,
                round=score.round,
                domain=domain,
                score=score.mean(domain),
                interval=score_interval(score, domain),
            )
            for score in state.scores
            for domain in sorted(score.correct)
        ]


def _is_run(folder: Path) -> bool:
    state = folder / STATE_FILE
    return (
        bool(re.match(RUN_NAME, folder.name)) and not folder.is_symlink() and state.is_file() and not state.is_symlink()
    )
