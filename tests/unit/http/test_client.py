"""What another service's answer is to us: an error that says what to do, however it was refused."""

import socket

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse

from shared.contracts.http import ErrorBody, ErrorResponse
from shared.errors import NotFoundError, OpcodError, RequestError, UnavailableError
from shared.http.app import create_app
from shared.http.client import answering, client, not_ready, parsed, refusal, words_of
from tests.fakes.access import PLENTY
from tests.fakes.listening import listening


def refused(status: int, message: str = "expected 1, got 2") -> httpx2.Response:
    body = ErrorResponse(error=ErrorBody(message=message, type="t", code="bad_value", param="n"))
    return httpx2.Response(status, content=body.model_dump_json())


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, RequestError, "the broker refused this: expected 1, got 2"),
        (404, NotFoundError, "the broker refused this: expected 1, got 2"),
        (413, RequestError, "the broker refused this: expected 1, got 2"),
        (422, RequestError, "the broker refused this: expected 1, got 2"),
        (429, UnavailableError, "the broker is busy: expected 1, got 2"),
        (503, UnavailableError, "the broker is busy: expected 1, got 2"),
        (307, OpcodError, "the broker answered 307: expected 1, got 2"),
        (403, OpcodError, "the broker answered 403: expected 1, got 2"),
        (500, OpcodError, "the broker answered 500: expected 1, got 2"),
    ],
)
def test_a_refusal_is_the_error_that_says_who_can_mend_it(status: int, kind: type[OpcodError], words: str) -> None:
    error = refusal("the broker", refused(status), passed_on=True)
    assert (type(error), str(error)) == (kind, words)
    if isinstance(error, RequestError):
        assert (error.status, error.code, error.param) == (status, "bad_value", "n")


@pytest.mark.parametrize("status", [400, 404, 429, 503])
def test_who_asked_for_itself_is_told_what_was_said_and_no_more(status: int) -> None:
    assert str(refusal("the broker", refused(status))) == "expected 1, got 2"


@pytest.mark.parametrize("content", [b"<html>gone</html>", b"{}", b'{"error": "gone"}', b"\xff"])
def test_an_answer_of_something_else_is_quoted_no_longer_than_needed(content: bytes) -> None:
    assert words_of(httpx2.Response(502, content=content)) == content.decode(errors="replace")
    assert len(words_of(httpx2.Response(502, content=content * 1000))) == 500


def test_a_service_that_is_away_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"the broker did not answer: ConnectError.*opcod status"):  # noqa: SIM117
        with answering("the broker"), client(1.0) as http:
            http.get("http://127.0.0.1:1/")


def test_ready_is_what_a_service_itself_says_and_nothing_that_it_leads_to() -> None:
    app, ready = FastAPI(), FastAPI()
    ready.get("/readyz")(lambda: {})
    app.get("/busy/readyz")(lambda: JSONResponse("loading", 503))
    with listening(ready) as there:
        app.get("/moved/readyz")(lambda: RedirectResponse(f"{there}/readyz"))
        with listening(app) as here:
            assert not_ready(there, 5.0) is None
            assert not_ready(f"{here}/busy", 5.0) == '503 "loading"'
            assert not_ready(f"{here}/moved", 5.0) is not None
    assert "no answer: ConnectError" in str(not_ready("http://127.0.0.1:1", 1.0))


def test_a_service_says_itself_why_it_is_not_ready_and_one_that_says_nothing_is_not_waited_for() -> None:
    with listening(create_app("it", ready=lambda: "the engine is starting", keys=None, limits=PLENTY)) as url:
        assert not_ready(url, 5.0) == "the engine is starting"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not_ready(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2) == "no answer in 0.2 s"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"<html>a proxy's</html>", "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"{}", "error"),
        (b'{"error": {"message": 1, "type": "t"}}', r"error\.message"),
        (b'{"error": {"message": "m", "type": "t"}, "' + b"n" * 5000 + b'": 1}', "n{200}…"),
    ],
)
def test_an_answer_of_another_shape_is_an_error_that_names_the_place(content: bytes, place: str) -> None:
    good = parsed("the broker", ErrorResponse.model_validate_json, refused(400).content)
    assert good.error.message == "expected 1, got 2"
    with pytest.raises(OpcodError, match=rf"^the broker answered something else than was asked for \({place}.*same"):
        parsed("the broker", ErrorResponse.model_validate_json, content)
