"""What a request brings: read as JSON, or refused with what was expected, what came and what to do.

What always holds: a body that reaches a route is text that UTF-8 can carry; a refusal has OpenAI's shape, and names the
field as the caller wrote it.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic_core import ErrorDetails, from_json

from shared.http.guard import error_response

MAX_SHOWN_CHARS = 60
"""Of a value or a name that a refusal repeats."""

CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}

_PLAINER = {
    "dict_type": "Input should be an object",
    "extra_forbidden": "no such field is known here; leave it out",
    "model_attributes_type": "Input should be an object",
    "tuple_type": "Input should be an array",
}
"""Where pydantic speaks of Python's types to callers that write JSON."""

_WITHOUT_VALUE = frozenset({"extra_forbidden", "missing", "value_error"})
"""Kinds whose message needs no value beside it: there is none, it is not the point, or the message has it."""


class JsonRequest(Request):
    """A request whose body is JSON."""

    async def json(self) -> Any:
        """Raises HTTPException (400) saying where it is no JSON, or holds a lone surrogate, NaN or too deep a nest."""
        try:
            return from_json((await self.body()).removeprefix(BOM_UTF8), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"expected a body in JSON, it breaks off: {error}") from error


class JsonRoute(APIRoute):
    """A route of which a body, if it takes one that is no form, is JSON and says so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)

        async def handler(request: Request) -> Response:
            if not takes_json:
                return await handle(request)
            _require_json(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


class OpenAIRoute(JsonRoute):
    """A route of OpenAI's API: there, what does not fit the schema is a 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return invalid_response(400, error)

        return handler


def invalid_response(status: int, error: RequestValidationError) -> JSONResponse:
    """The first fault of a request that does not fit its route's schema."""
    first: ErrorDetails = error.errors()[0]
    message = _PLAINER.get(first["type"], first["msg"]).removeprefix("Value error, ")
    if first["type"] not in _WITHOUT_VALUE:
        message += f", got {_shown(first['input'])}"
    code = CODES.get(first["type"], "invalid_value")
    place, *path = first["loc"]
    if place == "body":
        path = _as_written(path, error.body, missing=first["type"] == "missing")
    if param := ".".join(str(step)[:MAX_SHOWN_CHARS] for step in path):
        return error_response(status, f"{param}: {message}", "invalid_request_error", param, code)
    if first["type"] != "value_error":
        return error_response(status, f"{place}: {message}", "invalid_request_error", None, code)
    # One of our own about the whole: it begins with the field where a single one is to blame.
    field = message.partition(":")[0]
    return error_response(status, message, "invalid_request_error", field if field.isidentifier() else None, code)


def _require_json(request: Request) -> None:
    """Raises HTTPException (415). A page of another site cannot send this type unasked, so it stays required."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    subtype = kind.strip().lower().removeprefix("application/")
    if subtype == "json" or subtype.endswith("+json") or request.headers.get("content-length") == "0":
        return
    came = f"got {kind.strip()!r}" if kind.strip() else "there is none"
    raise HTTPException(415, f"expected the header Content-Type: application/json, {came}; with curl, -H says it")


def _as_written(path: Sequence[int | str], body: object, *, missing: bool) -> list[int | str]:
    """The steps of a path that lead through the body: others are names of pydantic's, of a union's members."""
    written, here = [], body
    for number, step in enumerate(path):
        last = number == len(path) - 1
        inside = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if inside or (isinstance(here, dict) and step in here):
            here = here[step]  # type: ignore[index]
        elif not (missing and last):
            continue
        written.append(step)
    return written


def _shown(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}…"
