"""Whether the weights in a directory are all of a model's and no others, by name and shape, and finite numbers.

What transformers leaves out is left out here, and no more: names that it maps or ignores, and tied tensors. So the
same files fit every engine, also one that loads them by itself. Names and shapes come from the files' headers alone.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedModel, __version__

from shared.errors import ModelError, reason, shown
from shared.modeling.directory import MODEL_CONFIG, few, reading, weight_files
from shared.modeling.tensorfiles import opened_tensors

_ROWS = 4096
"""Of an embedding that are read at once."""


def require_fit(path: Path, skeleton: PreTrainedModel) -> None:
    """Raises ModelError unless the weights in `path` fit a model like `skeleton`, which has no values."""
    headers = without_values(weight_files(path))
    with reading("the weights of its config.json", path), _unreported():
        _, info = type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            # In the place of files: names and shapes go through the very code that loads a model.
            state_dict=headers,
            device_map={"": "meta"},
            dtype=skeleton.dtype,
            ignore_mismatched_sizes=True,  # they are named below, all of them
            output_loading_info=True,
            trust_remote_code=False,
        )
    refuse_others(info, path)


def tied_names(model: nn.Module) -> dict[str, str]:
    """The name that `model_tensors` gives a parameter, by each further name that it has in the model."""
    # By identity: tied parameters are one object under two names.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: names[id(one)] for name, one in every if names[id(one)] != name}


def require_tied(path: Path, skeleton: PreTrainedModel) -> None:
    """Raises ModelError where a tensor that the config.json says is another one has values of its own in `path`:
    transformers would take both, and vLLM the one alone."""
    where = {name: file for file in weight_files(path) for name in without_values([file])}
    for further, own in tied_names(skeleton).items():
        if further in where and own in where and not _are_equal((where[further], further), (where[own], own)):
            raise ModelError(
                f"expected {further} in {path} to be {own}, as tie_word_embeddings in its {MODEL_CONFIG} says, found "
                "other values: set tie_word_embeddings to false where the model has an output layer of its own, or "
                f"take {further} out"
            )


def _are_equal(one: tuple[Path, str], other: tuple[Path, str]) -> bool:
    """Of two tensors of one shape, by file and name; they are read a part at a time."""
    with reading("the weights of its config.json", one[0]), ExitStack() as files:
        mine, others = (files.enter_context(opened_tensors(file)).get_slice(name) for file, name in (one, other))
        rows = mine.get_shape()[0]
        parts = (slice(first, first + _ROWS) for first in range(0, rows, _ROWS))
        return all(torch.equal(mine[part].float(), others[part].float()) for part in parts)


def require_known_type(config: Mapping[str, Any], path: Path) -> None:
    """Raises ModelError where a config.json names a type of model that transformers does not have."""
    named = config.get("model_type")
    if isinstance(named, str) and named not in CONFIG_MAPPING:
        own = "; it brings code of its own, which is never run" if "auto_map" in config else ""
        raise ModelError(
            f"{path / MODEL_CONFIG}: expected a model_type that transformers {__version__} has, got {shown(named)}"
            f"{own}: choose a model of a type that it has, or install a version that has this one"
        )


def refuse_others(info: Mapping[str, Collection[Any]], path: Path) -> None:
    """Raises ModelError unless loading `path`, of which this is transformers' account, left nothing out."""
    reshaped = sorted(
        f"{name} {tuple(found)} where the config has {tuple(wanted)}" for name, found, wanted in info["mismatched_keys"]
    )
    faults = {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"], "of another shape": reshaped}
    said = [f"{kind}: {few(sorted(names))}" for kind, names in faults.items() if names]
    if said:
        raise ModelError(
            f"expected in {path} the tensors that its config.json describes (is it complete? fetch or save it again); "
            f"{'; '.join(said)}"
        )


def is_finite(tensor: Tensor) -> bool:
    """No element is infinite or NaN. A sum that is finite shows it at a fraction of the cost, as it is so only where
    every element is; one that is not may just be too large.
    """
    # The sum may overflow where every element is finite, so only a finite one is an answer.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def require_finite(tensors: Iterable[tuple[str, Tensor]], where: Path) -> None:
    """Raises ModelError with the names of those that are not; one after the other is looked at, and let go."""
    others = [name for name, tensor in tensors if not is_finite(tensor)]
    if others:
        raise ModelError(f"expected finite weights in {where}, found NaN or infinity in {few(others)}: fetch it again")


def file_tensors(*files: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of safetensors files by name, each read when it is asked for. Raises ModelError."""
    for file in files:
        try:
            with opened_tensors(file) as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as broken:
            raise ModelError(f"expected safetensors in {file}: {reason(broken)}") from broken


def without_values(files: list[Path]) -> dict[str, Tensor]:
    """The tensors of safetensors files by name, on the meta device. Raises ModelError."""
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with opened_tensors(file) as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    found[name] = torch.empty(opened.get_slice(name).get_shape(), device="meta")
        except (OSError, SafetensorError) as broken:
            raise ModelError(f"expected safetensors, could not load {file}: {reason(broken)}") from broken
    return found


@contextmanager
def _unreported() -> Iterator[None]:
    """Without what transformers logs of it, as a table of what differs."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
