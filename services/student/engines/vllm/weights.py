"""How the weights of versions come to a vLLM server: what the engine asks of adapters and of full weights alike."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.student.engines.vllm.server import Life
from shared.errors import OpcodError

Unwanted = Callable[[], OpcodError | None]


@dataclass(frozen=True)
class Files:
    """A version's directory as it was checked. served: the one that the server reads. stamps: what would differ if a
    file were written again.
    """

    checksum: str
    directory: Path
    served: Path
    stamps: tuple[tuple[str, int, int, int], ...] = ()


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
