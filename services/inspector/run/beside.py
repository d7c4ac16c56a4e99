"""The runs and comparisons of the same directory, to be looked at beside this one, out of their own files.

What always holds: only `state.json`, `config.toml` and the inspector's log of a folder beside the run's own, and
`compare.json` of a comparison's, are read, never written, and never through a link; no text of an exchange is.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from services.inspector.config import STORE
from services.inspector.store.database import ReadOnlyDatabase
from services.inspector.store.log import RunLog
from shared.config.environment import RUN_NAME
from shared.config.loading import asked_settings
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import ConfigError, NotFoundError, StorageError, reason
from shared.results.comparison import COMPARISON_FILE, Comparison
from shared.results.progress import RunOutline, RunResults, run_outline, run_results

BUSY_S = 1.0  # its inspector may be writing now; a page does not wait longer for another run's log


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

    def outlines(self) -> list[RunOutline]:
        """Of every run of the directory, this one included, by name."""
        own = [self._run_dir] if _is_run(self._run_dir) else []
        folders = sorted([*own, *(self._run_dir.parent / name for name in self.names())])
        return [_outline(folder) for folder in folders]

    def comparisons(self) -> list[str]:
        try:
            folders = sorted(self._run_dir.parent.iterdir())
        except OSError:
            return []
        return [path.name for path in folders if _holds(path, COMPARISON_FILE)]

    def comparison(self, name: str) -> Comparison:
        """Raises NotFoundError, StorageError."""
        if name not in self.comparisons():
            raise NotFoundError(f"there is no comparison {name[:80]!r} here; the page of runs lists those there are")
        path = self._run_dir.parent / name / COMPARISON_FILE
        try:
            return Comparison.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path} cannot be read ({reason(error)}); `opcod compare` writes it anew") from error

    def results(self, name: str, *, intervals: bool = True) -> tuple[RunResults, str | None]:
        """What that run's files say, and why a part of it is missing. Raises NotFoundError, StorageError."""
        if name not in self.names():
            raise NotFoundError(
                f"there is no run {name[:80]!r} beside {self._run_dir.name}; the page lists those there are"
            )
        folder = self._run_dir.parent / name
        state = _state(folder)
        # How many rounds that run was to have stands in its settings, which need not be readable; its gates say how far
        # it came.
        round_ = max((gate.round for gate in state.gates), default=state.round)
        try:
            with _log(folder) as log:
                return run_results(name, round_, state, log.results(), intervals=intervals), None
        except (StorageError, ValidationError) as error:
            missing = f"{name}: its steps and verdicts cannot be read ({str(error).splitlines()[0]})"
            return run_results(name, round_, state, None, intervals=intervals), missing


def _outline(folder: Path) -> RunOutline:
    """What cannot be read is left out, and said."""
    problem = None
    try:
        settings = asked_settings(folder, begins=False)
    except ConfigError as error:
        settings, problem = None, str(error).splitlines()[0]
    try:
        return run_outline(folder.name, _state(folder), settings.run if settings else None, problem)
    except StorageError as error:
        return run_outline(folder.name, None, settings.run if settings else None, str(error))


def _state(folder: Path) -> RunState:
    try:
        return RunState.model_validate_json((folder / STATE_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise StorageError(
            f"the state of {folder.name} cannot be read ({first}); another version may have made it"
        ) from error


@contextmanager
def _log(folder: Path) -> Iterator[RunLog]:
    """Raises StorageError if that run's inspector kept none here."""
    path = folder / STORE
    # A link in a run's folder, which may have come from elsewhere, could lead to any file that this process may read.
    if not path.is_file() or path.is_symlink() or path.parent.is_symlink():
        raise StorageError(f"its inspector kept no {STORE} here")
    database = ReadOnlyDatabase(path, busy_s=BUSY_S)
    try:
        yield RunLog(database)
    finally:
        database.close()


def _is_run(folder: Path) -> bool:
    return _holds(folder, STATE_FILE)


def _holds(folder: Path, name: str) -> bool:
    """Whether it is a folder such as runs and comparisons have, with this file; neither may be a link."""
    file = folder / name
    named = bool(re.match(RUN_NAME, folder.name)) and not folder.is_symlink()
    return named and file.is_file() and not file.is_symlink()
