"""Other runs of the same directory, to be looked at beside this one, out of their own state and their inspector's log.

What always holds: only `state.json` and that log of a folder beside the run's own are read, never written, and never
through a link; no text of an exchange is.
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
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import NotFoundError, StorageError
from shared.results.progress import RunResults, run_results

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

    def results(self, name: str) -> tuple[RunResults, str | None]:
        """What that run's files say, and why a part of it is missing. Raises NotFoundError, StorageError."""
        if name not in self.names():
            raise NotFoundError(
                f"there is no run {name[:80]!r} beside {self._run_dir.name}; the page lists those there are"
            )
        folder = self._run_dir.parent / name
        state = _state(folder)
        round_ = max((gate.round for gate in state.gates), default=state.round)
        try:
            with _log(folder) as log:
                return run_results(name, round_, state, log.results()), None
        except (StorageError, ValidationError) as error:
            missing = f"{name}: its steps and verdicts cannot be read ({str(error).splitlines()[0]})"
            return run_results(name, round_, state, None), missing


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
    if not path.is_file() or path.is_symlink() or path.parent.is_symlink():
        raise StorageError(f"its inspector kept no {STORE} here")
    database = ReadOnlyDatabase(path, busy_s=BUSY_S)
    try:
        yield RunLog(database)
    finally:
        database.close()


def _is_run(folder: Path) -> bool:
    state = folder / STATE_FILE
    return (
        bool(re.match(RUN_NAME, folder.name)) and not folder.is_symlink() and state.is_file() and not state.is_symlink()
    )
