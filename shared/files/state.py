"""`state.json`: the run's state as its broker last wrote it, whole or not at all."""

from pathlib import Path

from shared.contracts.run import STATE_FILE, RunState
from shared.files.durable import atomic_write


def read_state_file(run_dir: Path) -> str | None:
    path = run_dir / STATE_FILE
    return path.read_text(encoding="utf-8") if path.exists() else None


def write_state_file(run_dir: Path, state: RunState) -> None:
    atomic_write(run_dir / STATE_FILE, state.model_dump_json(indent=1).encode())
