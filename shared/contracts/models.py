"""What a run's students are made of: their base weights, prepared before any service starts (`models/<student>.json`),
and the vLLM that serves them (`engines/<student>-<replica>.json`).
"""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from shared.contracts.messages import Contract
from shared.errors import ConfigError, reason

MODELS = "models"
"""Folder of the files, in the run's directory."""

ENGINES = "engines"
"""Likewise."""


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


class ServedBy(Contract):
    """The vLLM server of one replica. runner: which of its model runners computes, two bodies of code that sample and
    apply adapters each in their own way; None where the server does not tell.
    """

    version: str
    runner: Literal["V1", "V2"] | None
    max_model_len: int

    @property
    def line(self) -> str:
        """For people."""
        runner = "which model runner is not told" if self.runner is None else f"model runner {self.runner}"
        return f"vLLM {self.version}, {runner}, sequences of {self.max_model_len} tokens"


def served_by_file(run_dir: Path, student: str, replica: str) -> Path:
    return run_dir / ENGINES / f"{student}-{replica}.json"


def served_by(run_dir: Path) -> dict[str, ServedBy]:
    """By student and replica, of all that have said so; what cannot be read is left out."""
    found = {}
    for file in sorted((run_dir / ENGINES).glob("*-*.json")):
        with suppress(OSError, ValidationError):
            found[file.stem] = ServedBy.model_validate_json(file.read_bytes())
    return found
