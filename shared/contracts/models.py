"""`models/<student>.json`: the base weights of a student, prepared before any service starts."""

from pathlib import Path

from pydantic import ValidationError

from shared.contracts.messages import Contract
from shared.errors import ConfigError, reason

MODELS = "models"
"""Folder of the files, in the run's directory."""


Stamp = tuple[str, int, int, int]
"""Of a file: its name, inode, size and time of the last write in ns. It differs once the file was written again."""


class PreparedModel(Contract):
    """path: directory of the weights, read-only. sha256: over their files. checksum: of their tensors, as a version's.

    stamps: of the files when they were read for both, so that nobody need read 16 GB again to know them.
    """

    path: Path
    sha256: str
    checksum: str | None = None
    stamps: tuple[Stamp, ...] = ()


def model_file(run_dir: Path, student: str) -> Path:
    return run_dir / MODELS / f"{student}.json"


def prepared_model(run_dir: Path, student: str) -> PreparedModel:
    """Raises ConfigError if the file is missing or cannot be read."""
    path = model_file(run_dir, student)
    try:
        return PreparedModel.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"expected the prepared model of student {student} (path, sha256) in {path}, "
            f"written before services start: {reason(error)}"
        ) from error
