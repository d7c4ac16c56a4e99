"""The tensors of a published version, whichever kind it is: an adapter or a whole model.

A whole model is a directory that any program loads, its tensors in one safetensors file: the model's parameters by
name, one that is used twice (tied embeddings) once, in the model's dtype.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shared.contracts.weights import WeightsManifest
from shared.errors import ModelError, reason
from shared.files.store import ByteSink
from shared.modeling.adapters import checksum, load_adapter
from shared.modeling.checksums import file_checksum
from shared.modeling.directory import few
from shared.modeling.fitting import file_tensors, require_finite
from shared.modeling.tensorfiles import read_tensors, write_tensors

MODEL_FILE = "model.safetensors"


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


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, detached, on the CPU; what lies there is not copied."""
    return {name: parameter.detach().to("cpu") for name, parameter in model.named_parameters()}


def set_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the model's parameters. Raises ModelError where names or shapes are others."""
    parameters = dict(model.named_parameters())
    require_tensors_of(parameters, tensors, "what is to be trained")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def require_tensors_of(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises ModelError unless `tensors`, found in `where`, have the names and shapes of a model's parameters."""
    wanted, found = ({name: tuple(each.shape) for name, each in side.items()} for side in (parameters, tensors))
    if wanted != found:
        different = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise ModelError(
            f"expected the {len(wanted)} tensors of the model in {where}, got {len(found)}; names or shapes differ in "
            f"{few(different)}: are these the weights of another model?"
        )


def write_model(tensors: Mapping[str, Tensor], sink: ByteSink) -> None:
    """Write the file that `load_full` reads. Equal tensors give equal bytes."""
    write_tensors(tensors, sink, metadata={"format": "pt"})


def load_full(*files: Path) -> dict[str, Tensor]:
    """All tensors of a model's safetensors files. Raises ModelError for a broken file or values that are not finite."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            found = read_tensors(file)
        except (OSError, SafetensorError) as broken:
            raise ModelError(f"expected safetensors in {file}: {reason(broken)}") from broken
        require_finite(found.items(), file)
        tensors |= found
    return tensors


def checked_full(*files: Path) -> dict[str, Tensor]:
    """As `load_full`, but without values, on the meta device: one tensor at a time is in memory. Raises ModelError."""
    found: dict[str, Tensor] = {}
    for name, tensor in file_tensors(*files):
        require_finite([(name, tensor)], files[0].parent)
        found[name] = tensor.to("meta")
    return found


def _tensor_files(directory: Path, manifest: WeightsManifest) -> list[Path]:
    return [directory / entry.name for entry in manifest.files if entry.name.endswith(".safetensors")]
