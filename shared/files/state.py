"""`state.json`: the run's state as its broker last wrote it, whole or not at all; and which run it is that lies there.

A Redis may outlive a run's directory, and hold the state of a run of the same name that was begun before. So each run
is begun with an identity, which its directory and its state have. Runs that were begun without one have none in either.
"""

import secrets
from pathlib import Path

from pydantic import BaseModel, ValidationError

from shared.bus.keys import Keys
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import ConfigError
from shared.files.durable import atomic_write

IDENTITY_FILE = "identity"


class _Identified(BaseModel):
    """Of a state, whatever else it holds."""

    identity: str | None = None


def read_state_file(run_dir: Path) -> str | None:
    path = run_dir / STATE_FILE
    return path.read_text(encoding="utf-8") if path.exists() else None


def write_state_file(run_dir: Path, state: RunState) -> None:
    atomic_write(run_dir / STATE_FILE, state.model_dump_json(indent=1).encode())


def write_identity(run_dir: Path) -> None:
    """For a run that is begun there. Raises WriteError."""
    atomic_write(run_dir / IDENTITY_FILE, secrets.token_hex(16).encode())


def identity_of(run_dir: Path) -> str | None:
    """Of the run that lies there, by its state, before there is one by its directory."""
    saved = read_state_file(run_dir)
    known = None if saved is None else _identified(saved)
    if known is not None:
        return known.identity
    path = run_dir / IDENTITY_FILE
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def require_own_state(in_redis: str | None, run: str, run_dir: Path, *, begun: bool = True) -> None:
    """Raises ConfigError where what Redis holds is the state of another run than the one in `run_dir`.

    begun: whether there is a run; of one that is still to be begun no state is its own.
    """
    found = None if in_redis is None else _identified(in_redis)
    if found is None or (begun and found.identity == identity_of(run_dir)):
        return
    keys = f"{Keys(run).prefix}*"
    raise ConfigError(
        f"expected Redis to hold nothing of a run {run}, or what the one in {run_dir} left there; it holds the state "
        f"of another run of that name, which was begun elsewhere or whose directory is gone: choose another name, or, "
        f"if the other is not to go on, delete its keys {keys} "
        f"(redis-cli --scan --pattern '{keys}' | xargs redis-cli unlink)"
    )


def _identified(state: str) -> _Identified | None:
    """None for what is no state, about which whoever reads it says more."""
    try:
        return _Identified.model_validate_json(state)
    except ValidationError:
        return None
