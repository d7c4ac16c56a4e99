"""How a body is read, and what is said of one that cannot be used."""

import codecs
import json

import pytest
from fastapi import APIRouter, FastAPI, Form
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from shared.http.app import MAX_SHOWN_CHARS, OpenAIRoute, create_app
from tests.fakes.access import LOCAL, PLENTY

JSON = {"content-type": "application/json"}
SURROGATES = st.characters(categories=["Cs"])


class Inner(BaseModel):
    number: int


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    one_or_many: int | list[Inner] = 0


def app() -> FastAPI:
    built = create_app("test", ready=lambda: None, keys=None, limits=PLENTY)
    openai = APIRouter(route_class=OpenAIRoute)

    @openai.post("/openai")
    @built.post("/echo")
    def echo(body: Body) -> Body:
        return body

    @built.post("/form")
    def form(word: str = Form()) -> str:
        return word

    @built.post("/bare")
    def bare() -> str:
        return "done"

    built.include_router(openai)
    return built


CLIENT = TestClient(app(), base_url=LOCAL)


def refusal(content: str | bytes, path: str = "/echo", headers: dict[str, str] = JSON) -> tuple[int, dict[str, object]]:
    answer = CLIENT.post(path, content=content, headers=headers)
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize("path", ["/echo", "/openai"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"text": "x",}', "trailing comma at line 1 column 14"),
        (b'{"text":\n "x" "y"}', "expected `,` or `}` at line 2 column 6"),
        (b"text=hi", "at line 1 column 2"),
        (b'{"text": "\\ud800"}', "hex escape at line 1 column"),
        (b'{"\\udfff": 1, "text": "x"}', "hex escape at line 1 column"),
        (b'{"text": "x", "one_or_many": NaN}', "expected value at line 1 column 30"),
        (b'{"text": "\xff"}', "invalid unicode code point at line 1 column"),
        (b"[" * 10_000, "recursion limit exceeded at line 1 column"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "number out of range at line 1"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(path: str, content: bytes, says: str) -> None:
    status, error = refusal(content, path)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", None)
    assert says in str(error["message"])


@pytest.mark.parametrize("name", ["n" * 5_000, "\x1b[2J" * 50], ids=["long", "of a terminal"])
def test_a_field_of_somebody_elses_is_named_by_its_beginning(name: str) -> None:
    status, error = refusal(json.dumps({"text": "x", name: 1}))
    assert (status, error["code"]) == (422, "unknown_parameter")
    assert len(str(error["message"])) < 400 and str(error["message"]).isprintable()
    assert len(str(error["param"])) <= 60


@given(st.text(max_size=5), SURROGATES, st.text(max_size=5), st.booleans())
def test_text_that_is_no_text_is_refused_wherever_it_stands(before: str, lone: str, after: str, as_key: bool) -> None:
    word = before + lone + after
    body = {"text": "x", word: 1} if as_key else {"text": "x", "one_or_many": [{"number": word}]}
    status, error = refusal(json.dumps(body))
    assert (status, str(error["message"]).partition(":")[0]) == (400, "expected a body in JSON, it breaks off")


def test_a_mark_of_byte_order_before_json_is_no_part_of_it() -> None:
    answer = CLIENT.post("/echo", content=codecs.BOM_UTF8 + b'{"text": "x"}', headers=JSON)
    assert answer.json()["text"] == "x"


@pytest.mark.parametrize(
    ("headers", "came"),
    [
        ({}, "there is none"),
        ({"content-type": "application/x-www-form-urlencoded"}, "got 'application/x-www-form-urlencoded'"),
        ({"content-type": "text/plain; charset=utf-8"}, "got 'text/plain'"),
    ],
)
def test_a_body_that_does_not_say_that_it_is_json_is_told_how_to(headers: dict[str, str], came: str) -> None:
    status, error = refusal('{"text": "x"}', headers=headers)
    assert status == 415
    assert error["message"] == f"expected the header Content-Type: application/json, {came}; with curl, -H says it"


@pytest.mark.parametrize("kind", ["Application/JSON; charset=utf-8", "application/vnd.api+json"])
def test_json_has_more_than_one_name(kind: str) -> None:
    assert CLIENT.post("/echo", content='{"text": "x"}', headers={"content-type": kind}).status_code == 200


def test_forms_and_requests_without_a_body_need_no_json() -> None:
    assert CLIENT.post("/form", data={"word": "x"}).json() == "x"
    assert CLIENT.post("/bare", headers={"content-type": "application/x-www-form-urlencoded"}).json() == "done"


@pytest.mark.parametrize(
    ("body", "param", "message", "code"),
    [
        ({"text": "x", "one_or_many": "y"}, "one_or_many", 'unable to parse string as an integer, got "y"', None),
        ({"text": "x", "one_or_many": [{}]}, "one_or_many", "Input should be a valid integer, got [{}]", None),
        ({"text": {"a": 1}}, "text", 'text: Input should be a valid string, got {"a": 1}', None),
        ({}, "text", "text: Field required", "missing_required_parameter"),
        ({"text": ["x" * 500]}, "text", f"got {json.dumps(['x' * 500])[:MAX_SHOWN_CHARS]}…", None),
    ],
)
def test_a_field_is_named_as_the_caller_wrote_it_with_what_came(
    body: dict[str, object], param: str, message: str, code: str | None
) -> None:
    for path, expected in (("/echo", 422), ("/openai", 400)):
        status, error = refusal(json.dumps(body), path)
        assert (status, error["param"], error["code"]) == (expected, param, code or "invalid_value")
        assert str(error["message"]).endswith(message)
