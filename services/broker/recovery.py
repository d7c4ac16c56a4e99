"""Where a starting broker takes the run's state from, and what it must do again.

Order of truth: a trainer's checkpoint > a sealed manifest > the higher (incarnation, revision) of Redis and
state.json. The first two need no reading here: a sealed batch that is announced again is adopted, and a
trainer that has already applied it only says so again.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from shared.contracts.run import STATE_FILE, RunState
from shared.errors import StorageError
from shared.files.store import atomic_write


@dataclass(frozen=True)
class Recovered:
    """state: None for a new run. redis_was_empty: queues and payloads of open work are gone. why: it was chosen."""

    state: RunState | None
    redis_was_empty: bool
    source: str
    why: str


def choose(in_redis: str | None, on_disk: str | None) -> Recovered:
    """The state to go on from. Raises StorageError if one that is there cannot be read."""
    remembered = _parse(in_redis, "Redis") if in_redis is not None else None
    saved = _parse(on_disk, STATE_FILE) if on_disk is not None else None
    if remembered is None:
        if saved is None:
            return Recovered(None, False, "nowhere", "a new run")
        return Recovered(saved, True, STATE_FILE, "Redis holds nothing of this run; its queues are filled again")
    if saved is None:
        return Recovered(remembered, False, "Redis", f"there is no {STATE_FILE}")
    if _age(remembered) >= _age(saved):
        return Recovered(remembered, False, "Redis", f"at least as new as {STATE_FILE}: {_ages(remembered, saved)}")
    return Recovered(saved, True, STATE_FILE, f"newer than Redis: {_ages(saved, remembered)}")


def read_state_file(run_dir: Path) -> str | None:
    path = run_dir / STATE_FILE
    return path.read_text(encoding="utf-8") if path.exists() else None


def highest_fence(run_dir: Path) -> int:
    """The fencing token of the last broker that wrote state.json; the next one must be greater."""
    saved = read_state_file(run_dir)
    return _parse(saved, STATE_FILE).fence if saved is not None else 0


def write_state_file(run_dir: Path, state: RunState) -> None:
    atomic_write(run_dir / STATE_FILE, state.model_dump_json(indent=1).encode())


def _age(state: RunState) -> tuple[int, int]:
    return state.incarnation, state.revision


def _ages(taken: RunState, left: RunState) -> str:
    return "revision {}.{}, against {}.{}".format(*_age(taken), *_age(left))


def _parse(text: str, source: str) -> RunState:
    try:
        return RunState.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(
            f"the run's state in {source} does not fit this version of opcod: {error}; "
            f"go on with the version that wrote it, or start a new run"
        ) from error
