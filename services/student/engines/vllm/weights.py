"""How the weights of versions come to a vLLM server: the port that the engine asks, and adapters behind it.

Adapters lie side by side on the server, each under a name that holds its checksum. Full weights are in `full.py`.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.student.engines.port import EngineAwayError, RefusedError, Unwanted
from services.student.engines.vllm.client import CALL_TIMEOUT_S, StatusError
from services.student.engines.vllm.health import Seen
from services.student.engines.vllm.server import Life, look_at
from shared.contracts.models import Stamp
from shared.errors import ModelError
from shared.modeling.adapters import CONFIG_FILE, checksum, load_adapter, renamed_adapter, save_adapter


@dataclass(frozen=True)
class Files:
    """A version's directory as it was checked. served: the one that the server reads. stamps: what would differ if a
    file were written again.
    """

    checksum: str
    directory: Path
    served: Path
    stamps: tuple[Stamp, ...] = ()


class Weights(Protocol):
    """One for each engine; `check`, `load` and `unload` come from one thread, `serving` from many."""

    @property
    def base_stays(self) -> bool:
        """The base model's weights stay as they are in one life of the server."""

    def check(self, directory: Path | None, known: str | None) -> Files:
        """Read and check a version's files (None: the base model's). known: their checksum; None: it is made.

        Raises ModelError.
        """

    def load(self, life: Life, version: str, files: Files) -> str | None:
        """Hold the version; returns its name at the server, None for the base model's.

        Raises ModelError where the server does not take it, EngineAwayError.
        """

    def unload(self, life: Life, version: str, name: str | None) -> None:
        """Hold it no more. name: None where the server has no name for it alone."""

    def together(self, versions: Sequence[str]) -> list[list[int]]:
        """The places of those that may run at once, group by group."""

    def serving(self, life: Life, version: str, unwanted: Unwanted) -> AbstractContextManager[Mapping[str, str]]:
        """While it lasts, the server answers requests of `version` with it; gives what each request says besides.

        Raises what `unwanted` returns, ModelError and EngineAwayError.
        """


class Renamed:
    """Adapters under the names that the server has for their layers, below `root`, which belongs to this process alone
    and is emptied first. served: those names, by the ones in a version."""

    def __init__(self, root: Path, served: Mapping[str, str]) -> None:
        self._root = root
        self._served = served
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)

    def add(self, name: str, directory: Path) -> Path:
        """The adapter in `directory` as the server reads it, until it is removed: it may be read again at any time.

        Raises ModelError.
        """
        tensors, spec = load_adapter(directory)
        made = self._root / name
        made.mkdir(exist_ok=True)
        try:
            save_adapter(made, renamed_adapter(tensors, self._served), spec, "")
        except OSError as error:
            raise ModelError(f"expected to write the adapter of {directory} into {made}: {error}") from error
        return made

    def remove(self, name: str) -> None:
        shutil.rmtree(self._root / name, ignore_errors=True)


class AdapterWeights:
    """See `Weights`. model_dir, base_checksum: the base model's. renamed: makes what the server reads; None: it reads
    the versions' own directories."""

    base_stays = True

    def __init__(self, model_dir: Path, base_checksum: str, renamed: Renamed | None = None) -> None:
        self._base = Files(base_checksum, model_dir, model_dir)
        self._renamed = renamed

    def check(self, directory: Path | None, known: str | None) -> Files:
        if directory is None:
            return self._base
        if not (directory / CONFIG_FILE).is_file():
            raise ModelError(f"with run.weights = 'lora' vLLM serves adapters; expected {CONFIG_FILE} in {directory}")
        tensors, _ = load_adapter(directory)
        return Files(known or checksum(tensors), directory, directory.resolve())

    def load(self, life: Life, version: str, files: Files) -> str | None:
        """A name that the server holds already stands for the same bytes."""
        if files is self._base:
            return None
        name = f"{version}-{files.checksum[:16]}"
        served = files.served if self._renamed is None else self._renamed.add(name, files.directory)
        try:
            _load(life, name, served)
        except (RefusedError, StatusError) as refused:
            # An engine that died behind its server fails so, too, and has refused nothing.
            look = look_at(life, CALL_TIMEOUT_S)
            if look.seen is not Seen.ANSWERED:
                raise EngineAwayError(f"vLLM was lost while {version} was loaded: {look.reason}") from refused
            if name in look.listed:
                return name
            raise ModelError(
                f"vLLM does not take the adapter in {files.directory}: {refused}; expected a server that reads that "
                "directory by this path, and takes adapters of this rank (--max-lora-rank; docs/engines.md)"
            ) from refused
        return name

    def unload(self, life: Life, version: str, name: str | None) -> None:  # noqa: ARG002 - its name says it
        if name is not None:
            with suppress(RefusedError, EngineAwayError):  # a server that has lost it needs no telling
                life.client.unload(name)
            if self._renamed is not None:
                self._renamed.remove(name)

    def together(self, versions: Sequence[str]) -> list[list[int]]:
        return [list(range(len(versions)))]

    def serving(self, life: Life, version: str, unwanted: Unwanted) -> AbstractContextManager[Mapping[str, str]]:  # noqa: ARG002
        return nullcontext({})


def _load(life: Life, name: str, served: Path) -> None:
    """Raises RefusedError, and StatusError where the server failed at it twice."""
    try:
        life.client.load(name, served)
    except StatusError:
        life.client.load(name, served)
