"""Versions as adapters on a vLLM server: side by side, each under a name that holds its checksum."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from services.student.engines.port import EngineAwayError, RefusedError
from services.student.engines.vllm.server import Life
from services.student.engines.vllm.weights import Files, Unwanted
from shared.errors import ModelError
from shared.modeling.adapters import CONFIG_FILE, checksum, load_adapter
from shared.modeling.checksums import file_checksum


class AdapterWeights:
    """See `weights.Weights`. model_dir: the base model's."""

    base_stays = True

    def __init__(self, model_dir: Path) -> None:
        self._base = Files(file_checksum(*sorted(model_dir.glob("*.safetensors"))), model_dir, model_dir)

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
        try:
            life.client.load(name, files.served)
        except RefusedError as refused:
            if name not in {model.id for model in life.client.models()}:
                raise ModelError(f"vLLM does not take the adapter in {files.directory}: {refused}") from refused
        return name

    def unload(self, life: Life, version: str, name: str | None) -> None:  # noqa: ARG002 - its name says it
        if name is not None:
            with suppress(RefusedError, EngineAwayError):  # a server that has lost it needs no telling
                life.client.unload(name)

    def together(self, versions: Sequence[str]) -> list[list[int]]:
        return [list(range(len(versions)))]

    def serving(self, life: Life, version: str, unwanted: Unwanted) -> AbstractContextManager[Mapping[str, str]]:  # noqa: ARG002
        return nullcontext({})
