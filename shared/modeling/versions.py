"""The tensors of a published version, whichever kind it is: an adapter or a whole model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from shared.contracts.weights import WeightsManifest
from shared.modeling.adapters import checksum, load_adapter
from shared.modeling.checksums import file_checksum
from shared.modeling.finite import file_tensors, require_finite
from shared.modeling.full import load_full


def version_tensors(directory: Path, manifest: WeightsManifest) -> Mapping[str, Tensor]:
    """The tensors of a published version among other files. Raises ModelError."""
    return load_adapter(directory)[0] if manifest.kind == "lora" else load_full(*_tensor_files(directory, manifest))


def version_checksum(directory: Path, manifest: WeightsManifest) -> str:
    """The identity of a published version's tensors, which are finite; a whole model's are read one by one.

    Raises ModelError.
    """
    if manifest.kind == "lora":
        return checksum(load_adapter(directory)[0])
    files = _tensor_files(directory, manifest)
    require_finite(file_tensors(*files), directory)
    return file_checksum(*files)


def _tensor_files(directory: Path, manifest: WeightsManifest) -> list[Path]:
    return [directory / entry.name for entry in manifest.files if entry.name.endswith(".safetensors")]
