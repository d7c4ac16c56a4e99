"""JSON lines to checked rows: every refusal names file, line, what was expected and what came, cut to a line.

What always holds for a row that is given out: its line is JSON as the standard has it, with each key once, no NaN, and
no NUL in a text, which some of those who read it later end at.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ProblemSetError, shown
from shared.files.text import FETCH_LFS, LFS_POINTER

Row = TypeVar("Row", bound=BaseModel)

_HINTS = {
    "[": ". JSON lines are one object a line, without brackets around; `jq -c '.[]'` makes them of an array",
    "{": ". JSON lines are one object a line; `jq -c .` makes them of objects over several lines",
}
_LARGEST_QUOTED = 10**18
_TOO_LARGE = "nested too deeply, or with a number that is too long"
_TABLE = (
    ". It looks like a table, CSV or TSV: write its rows as JSON lines, `pandas` does with `to_json(…, lines=True)`"
)
_TABLE_NAMES = ("question", "answer", "completion")
_CELL = re.compile(r"[\"'\s]*[,;\t][\"'\s]*")
_MAX_HEADER = 1000
_LOOKS = (
    ((b"\xff\xfe", b"\xfe\xff"), "UTF-16, save it as UTF-8"),
    ((b"PAR1",), "Parquet, write its rows as JSON lines: `datasets` and `pandas` do with `to_json(…, lines=True)`"),
    ((b"\x1f\x8b",), "gzip, unpack it"),
    ((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "a compressed file, unpack it"),
    ((b"ARROW1", b"\xff\xff\xff\xff"), "Arrow, write its rows as JSON lines: `datasets` does with `to_json(…)`"),
    ((b"PK\x03\x04",), "a ZIP archive or a table of Excel, write its rows as JSON lines"),
)
"""How a file of another kind begins, what it is then and what to do."""


def read_rows(path: Path, model: type[Row]) -> Iterator[tuple[str, Row]]:
    """(`file:line`, row) for each line that is not blank; only a newline ends a line.

    Raises ProblemSetError for a file that cannot be read as UTF-8 and for the first line that is no such row.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith(LFS_POINTER):
            raise ProblemSetError(f"{path}: expected lines of JSON, {FETCH_LFS}")
        _refuse_another_kind(raw, path)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        raise ProblemSetError(
            f"{path}:{at}: expected UTF-8 text, got the byte 0x{byte:02x} in another encoding; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ProblemSetError(f"{path}: expected this file, cannot read it ({error.strerror})") from error
    # Not splitlines, which ends a line at U+2028 and others that may stand in a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, _row(line, place, model)


def _refuse_another_kind(raw: bytes, path: Path) -> None:
    looks = next((told for beginnings, told in _LOOKS if raw.startswith(beginnings)), None)
    # Without its mark UTF-16 is UTF-8 as well, whose every second character is NUL.
    if looks is None and b"\x00" in raw[:2]:
        looks = _LOOKS[0][1]
    if looks is not None:
        raise ProblemSetError(f"{path}: expected lines of JSON, got other bytes; it looks like {looks}")


def _row(line: str, place: str, model: type[Row]) -> Row:
    try:
        row = model.model_validate_json(line)
        # Read a second time: pydantic takes the last of two equal keys, and NaN.
        json.loads(line, object_pairs_hook=_object, parse_constant=_constant)
    except ValidationError as error:
        raise ProblemSetError(f"{place}: {_first_fault(error, line, model)}") from error
    except _UnclearError as error:
        raise ProblemSetError(f"{place}: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ProblemSetError(f"{place}: expected a JSON object, got {shown(line.strip())} ({_TOO_LARGE})") from error
    return row


class _UnclearError(Exception):
    """A line that different readers of JSON read differently."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _UnclearError(f"expected each field once, got {shown(name)} twice")
        fields[name] = value
        if isinstance(value, str) and "\x00" in value:
            raise _UnclearError(f"{name}: expected text without NUL (\\u0000), got {shown(value)}")
    return fields


def _constant(name: str) -> None:
    raise _UnclearError(f"expected JSON, got {name}, which JSON does not have; leave the value out or give a number")


def _first_fault(error: ValidationError, line: str, model: type[BaseModel]) -> str:
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    bare = line.strip()
    hint = _HINTS["["] if bare.startswith("[") else _HINTS.get(bare, "")
    if fault["type"] == "json_invalid":
        table = _TABLE if not hint and set(_TABLE_NAMES) & set(_CELL.split(bare[:_MAX_HEADER])) else ""
        return f"expected a JSON object, got {shown(bare)} ({_syntax(line, fault['ctx']['error'])}){hint}{table}"
    if not field:
        return f"expected an object with the fields {', '.join(model.model_fields)}, got {shown(fault['input'])}{hint}"
    if fault["type"] == "missing":
        return f"expected the field {shown(field)}, it is missing"
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return f"expected only the fields {', '.join(model.model_fields)}, got {shown(field)}"
    quoted = f'; write it in quotes, as a text: "{fault["input"]}"' if _wants_quotes(fault) else ""
    return f"{field}: expected {_wanted(fault['msg'])}, got {shown(fault['input'])}{quoted}"


def _wants_quotes(fault: ErrorDetails) -> bool:
    got = fault["input"]
    return fault["type"] == "string_type" and type(got) is int and abs(got) < _LARGEST_QUOTED


def _syntax(line: str, found: str) -> str:
    """found: by pydantic, which also refuses what the standard library takes, such as half of a character."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.msg
    except (RecursionError, ValueError):
        return _TOO_LARGE
    return found.partition(" at line ")[0]


def _wanted(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("String should have ")
