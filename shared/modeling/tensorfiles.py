"""Safetensors files, read patiently, and written to whoever takes their bytes: safetensors itself writes to a path, and
nobody sees what.

The bytes are those that `safetensors.torch.save_file` writes: an 8-byte length, a JSON header, the tensors.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from shared.files.store import ByteSink, patiently
from shared.modeling.checksums import TensorBytes

# In the order of a file: by type, as safetensors has them, and then by name.
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ORDER = tuple(_NAMES)
_ALIGNMENT = 8
"""Of the first tensor."""


def tensor_bytes(name: str, tensor: Tensor) -> TensorBytes:
    """A tensor as a file holds it; what lies on the CPU is not copied."""
    # As bytes, since numpy has no bfloat16.
    flat = tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8)
    return TensorBytes(name, _NAMES[tensor.dtype], tuple(tensor.shape), flat.numpy().data)


def write_tensors(tensors: Mapping[str, Tensor], sink: ByteSink, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of `tensors`, in fp32, bf16 or fp16. metadata: one key at most, or the order of keys would vary.

    One tensor after the other is taken to the CPU.
    """
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER.index(item[1].dtype), item[0]))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    sink.write(struct.pack("<Q", len(text)) + text)
    for name, tensor in ordered:
        sink.write(tensor_bytes(name, tensor).data)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises OSError and SafetensorError."""

    def read() -> dict[str, Tensor]:
        # Safetensors says of whatever it cannot open that it is not there; Python knows why.
        with file.open("rb"):
            found: dict[str, Tensor] = load_file(file)
            return found

    return patiently(read)


def opened_tensors(file: Path) -> safe_open:
    """As `read_tensors`, but each tensor is read when it is asked for."""

    def opened() -> safe_open:
        with file.open("rb"):
            return safe_open(file, framework="pt")

    return patiently(opened)
