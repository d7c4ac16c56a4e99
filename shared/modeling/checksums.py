"""The identity of a set of tensors: one sha256 over their names, dtypes, shapes and bytes.

The same tensors have the same checksum in memory (`adapters.checksum`) and in a safetensors file, however the file
orders or aligns them. Reading a file needs no torch.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeGuard

from shared.contracts.models import PreparedModel, Stamp
from shared.errors import ModelError, reason, shown
from shared.files.store import patiently

_HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors format itself


class TensorBytes(NamedTuple):
    """One tensor as safetensors stores it: dtype by its name there ("BF16"), data little-endian and row-major."""

    name: str
    dtype: str
    shape: Sequence[int]
    data: bytes | memoryview


def checksum_of(tensors: Iterable[TensorBytes]) -> str:
    """Return the hex sha256 over `tensors`, which must come sorted by name."""
    digest = hashlib.sha256()
    for tensor in tensors:
        head = json.dumps([tensor.name, tensor.dtype, list(tensor.shape)], separators=(",", ":"))
        digest.update(head.encode() + b"\n")
        digest.update(tensor.data)
    return digest.hexdigest()


def file_checksum(*paths: Path) -> str:
    """Return the checksum of all tensors in safetensors files (the shards of one model, or one adapter).

    Raises ModelError for a file that is not safetensors or is cut short.
    """
    where = {name: (path, entry) for path in paths for name, entry in patiently(partial(_read_header, path)).items()}
    return checksum_of(patiently(partial(_read_tensor, name, *where[name])) for name in sorted(where))


def tensor_shapes(*paths: Path) -> dict[str, Sequence[int]]:
    """The shapes of all tensors in safetensors files, by name; nothing but the headers is read. Raises ModelError."""
    return {name: entry.shape for path in paths for name, entry in _read_header(path).items()}


def model_files(directory: Path) -> list[Path]:
    """What decides what a model does, sorted. Notes beside it may change. Raises OSError."""
    return sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".json", ".jinja"))


def stamps(files: Sequence[Path]) -> tuple[Stamp, ...]:
    """What would differ if one were written again. Raises OSError."""
    found = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def weights_checksum(model: PreparedModel) -> str:
    """The checksum of a run's base weights: as it was prepared while nothing was written since, else made anew.

    Raises ModelError and OSError.
    """
    if model.checksum is not None and model.stamps == stamps(model_files(model.path)):
        return model.checksum
    return file_checksum(*sorted(model.path.glob("*.safetensors")))


class _Entry(NamedTuple):
    dtype: str
    shape: list[int]
    start: int
    end: int


def _read_header(path: Path) -> dict[str, _Entry]:
    """Entries by tensor name, with absolute offsets into the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _header_length(file, path, size)
        try:
            header = json.loads(file.read(length))
            # Not part of the identity: it says who wrote the file.
            header.pop("__metadata__", None)
            return {name: _entry(raw, 8 + length, size) for name, raw in header.items()}
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as broken:
            raise ModelError(
                f"expected a complete safetensors file at {path}: {reason(broken)}; fetch it again"
            ) from broken


def _header_length(file: BinaryIO, path: Path, size: int) -> int:
    # A safetensors file: 8 bytes with the length of a JSON header, the header, then the data.
    prefix = file.read(8)
    length: int = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    if 8 + length > size or length > _HEADER_LIMIT_BYTES:
        raise ModelError(f"expected a safetensors file at {path}, found {size} bytes of something else")
    return length


def _entry(raw: dict[str, object], data_start: int, size: int) -> _Entry:
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not (isinstance(dtype, str) and _are_whole(shape) and _are_whole(offsets)):
        raise ValueError(f"malformed entry {shown(raw)}")
    start, end = (data_start + offset for offset in offsets)
    if not data_start <= start <= end <= size:
        raise ValueError(f"data at bytes {start} to {end} of {size}")
    return _Entry(dtype, shape, start, end)


def _are_whole(numbers: object) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(number) is int for number in numbers)


def _read_tensor(name: str, path: Path, entry: _Entry) -> TensorBytes:
    with path.open("rb") as file:
        file.seek(entry.start)
        data = file.read(entry.end - entry.start)
    return TensorBytes(name, entry.dtype, entry.shape, data)
