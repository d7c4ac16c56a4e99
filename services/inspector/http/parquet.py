"""Rows of one contract as a Parquet file, through pyarrow (the optional extra `export`).

What always holds: the columns and their types follow from the contract, whatever is in the rows, so that files of
different filters and runs can be read together.
"""

import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as arrow
from pyarrow import parquet
from pydantic import BaseModel

_PLAIN = {int: arrow.int64(), float: arrow.float64(), str: arrow.string(), bool: arrow.bool_()}


def table(pages: Iterable[Sequence[BaseModel]], contract: type[BaseModel]) -> Iterator[bytes]:
    """The bytes of the file, one row group a page."""
    schema = arrow.schema(_fields(contract))
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        # A row group is in memory until it is written: a page bounds it.
        for page in pages:
            rows = [row.model_dump(mode="json") for row in page]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            yield sink.taken()
    yield sink.taken()


class _Sink:
    """A file that is only ever written on; what was written is handed on and forgotten."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _fields(model: type[BaseModel]) -> list[arrow.Field]:
    return [arrow.field(name, _type(field.annotation)) for name, field in model.model_fields.items()]


def _type(annotation: Any) -> arrow.DataType:
    """Of a field of a contract: plain values, words, None beside them, tuples of one kind, and contracts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arrow.string()
    if origin in (Union, types.UnionType):
        [inner] = [argument for argument in arguments if argument is not types.NoneType]
        return _type(inner)
    if origin is tuple:
        return arrow.list_(_type(arguments[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return arrow.struct(_fields(annotation))
    return _PLAIN[annotation]
