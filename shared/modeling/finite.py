"""Numbers that are numbers: a NaN or an infinity in the weights makes every answer one, and no step can mend it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.errors import ModelError, reason
from shared.modeling.directory import few


def is_finite(tensor: Tensor) -> bool:
    """No element is infinite or NaN. A sum that is finite shows it at a fraction of the cost, as it is so only where
    every element is; one that is not may just be too large.
    """
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
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as broken:
            raise ModelError(f"expected safetensors in {file}: {reason(broken)}") from broken
