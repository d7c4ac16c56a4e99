"""JSON lines to checked rows: every refusal names file, line, what was expected and what came."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import ProblemSetError

Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: Path, model: type[Row]) -> Iterator[tuple[str, Row]]:
    """(`file:line`, row) for each line that is not blank; only a newline ends a line.

    Raises ProblemSetError for a file that cannot be read as UTF-8 and for the first line that is no such row.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemSetError(f"{path}: expected UTF-8 text, got other bytes at {error.start}") from error
    except OSError as error:
        raise ProblemSetError(f"{path}: expected this file, cannot read it ({error.strerror})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, _row(line, place, model)


def _row(line: str, place: str, model: type[Row]) -> Row:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise ProblemSetError(f"{place}: {_first_fault(error, line, model)}") from error


def _first_fault(error: ValidationError, line: str, model: type[BaseModel]) -> str:
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "json_invalid":
        return f"expected a JSON object, got {line.strip()[:60]!r} ({_syntax(line)})"
    if not field:
        return f"expected an object with the fields {', '.join(model.model_fields)}, got {fault['input']!r}"
    if fault["type"] == "missing":
        return f"expected the field {field!r}, it is missing"
    if fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1:
        return f"expected only the fields {', '.join(model.model_fields)}, got {field!r}"
    return f"{field}: expected {_wanted(fault['msg'])}, got {fault['input']!r}"


def _syntax(line: str) -> str:
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.msg
    return "invalid JSON"


def _wanted(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("String should have ")
