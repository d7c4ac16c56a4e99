"""Asking our own services over HTTP, and what they say instead of an answer as an error of ours.

What always holds: neither the environment's proxies nor a redirect leads anywhere else than was asked.
"""

import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from pydantic import ValidationError

from shared.contracts.http import ErrorResponse, Readiness
from shared.errors import NotFoundError, OpcodError, RequestError, UnavailableError, reason

Answer = TypeVar("Answer")

MAX_REASON_CHARS = 500


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def client(timeout_s: float, headers: Mapping[str, str] | None = None) -> httpx2.Client:
    """timeout_s: without a sign of life from the other side."""
    # No proxy of the environment: our services are on this machine or in this cluster, and a key goes with the request.
    return httpx2.Client(headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=False, verify=_tls())


def async_client(timeout_s: float, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """timeout_s: without a sign of life from the other side."""
    return httpx2.AsyncClient(
        headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=False, verify=_tls()
    )


@contextmanager
def answering(who: str) -> Iterator[None]:
    """Around a call: raises UnavailableError, naming `who` was asked, if no whole answer comes."""
    try:
        yield
    except httpx2.HTTPError as error:
        raise UnavailableError(f"{who} did not answer: {error!r}; look at `opcod status`") from error


def refusal(who: str, answer: httpx2.Response, *, passed_on: bool = False) -> OpcodError:
    """The error that an answer is that was read and is none.

    UnavailableError where asking again may help, RequestError where what was asked is at fault, else OpcodError.
    passed_on: somebody else had asked, and is told who refused it.
    """
    said, code, param = _error(answer)
    match answer.status_code:
        case 429 | 503:
            return UnavailableError(f"{who} is busy: {said}" if passed_on else said)
        case 404:
            return NotFoundError(f"{who} refused this: {said}" if passed_on else said, code=code, param=param)
        case 400 | 413 | 422 as status:
            words = f"{who} refused this: {said}" if passed_on else said
            return RequestError(words, status=status, code=code, param=param)
        case status:
            return OpcodError(f"{who} answered {status}: {said}")


def parsed(who: str, parse: Callable[[bytes | str], Answer], data: bytes | str) -> Answer:
    """What `who` answered, in the shape that was asked for. Raises OpcodError if it is of another."""
    try:
        return parse(data)
    except ValidationError as error:
        raise OpcodError(
            f"{who} answered something else than was asked for ({reason(error)}); run both from the same version of "
            "opcod"
        ) from error


def words_of(answer: httpx2.Response) -> str:
    """What a service said with its refusal."""
    return _error(answer)[0]


def not_ready(url: str, timeout_s: float) -> str | None:
    """Why the service at `url` is not ready, in its own words, or None."""
    try:
        with client(timeout_s) as http:
            answer = http.get(f"{url}/readyz")
    except httpx2.TimeoutException:
        return f"no answer in {timeout_s:g} s"
    except httpx2.HTTPError as error:
        return f"no answer: {error!r}"
    if answer.status_code == 200:
        return None
    try:
        said = Readiness.model_validate_json(answer.content).reason
    except ValidationError:
        said = None
    return said or f"{answer.status_code} {answer.text[:MAX_REASON_CHARS]}"


def _error(answer: httpx2.Response) -> tuple[str, str | None, str | None]:
    """Message, code and param."""
    try:
        error = ErrorResponse.model_validate_json(answer.content).error
    except ValidationError:
        return answer.text[:MAX_REASON_CHARS], None, None
    return error.message, error.code, error.param


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the system's certificates takes as long as many a call."""
    return httpx2.create_ssl_context(trust_env=False)
