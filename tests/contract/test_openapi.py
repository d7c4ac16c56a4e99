"""Requests made from each service's own OpenAPI, valid and not: no 500, errors in OpenAI's shape, answers as promised.

In process, without a network: the apps are the services' own, on fakes of what stands behind them.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from shared.contracts.http import ErrorResponse
from tests.fakes.access import LOCAL
from tests.fakes.in_process import SERVICES

if TYPE_CHECKING:
    from schemathesis import Case

EXAMPLES = 12
ENDLESS = "/v1/stream"
EXPECTED_ERRORS = {400, 404, 405, 409, 411, 413, 422, 503}


LONE = st.characters(categories=["Cs"])
SOMEWHERE = st.recursive(
    LONE, lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(LONE | st.text(), inner, min_size=1)
)
NO_TEXT = SOMEWHERE.map(lambda value: json.dumps({"model": "a", "problem": value, "messages": [{"content": value}]}))
CUT_OFF = st.integers(1, 40).map(lambda end: json.dumps({"model": "a", "messages": [{"role": "user"}]})[:end])
"""Bodies with a lone surrogate, as a value or a name at any depth, and such as end too soon."""

LEAST: dict[str, object] = {
    "model": "a",
    "messages": [{"role": "user", "content": "2 + 2?"}],
    "problem": "2 + 2?",
    "prompt": "2 + 2?",
    "response": "5",
    "reason": "why not",
    "tutor": "b",
}
"""A value of each field that some body must have."""
NAMED = {"host": "localhost"}
"""Without keys a service answers to no other name."""


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "invalid"])
@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_answers_what_its_schema_says(service: str, valid: bool, tmp_path: Path) -> None:
    # Here and not above: only who runs these tests has to spend the time.
    import schemathesis
    from schemathesis.core.result import Ok

    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE
    with SERVICES[service](tmp_path) as app:
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=NAMED)
        tried = []
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            if operation.path == ENDLESS:
                continue
            with suppress(Unsatisfiable):  # nothing can be invalid where nothing is asked for
                attempt(operation.as_strategy(generation_mode=mode))
                tried.append(operation.label)
        assert len(tried) >= 2


def attempt(cases: SearchStrategy["Case[Any]"]) -> None:
    from schemathesis.specs.openapi.checks import response_schema_conformance

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(case=cases)
    def answered(case: "Case[Any]") -> None:
        response = case.call(headers=NAMED)
        if response.status_code < 400:
            case.validate_response(response, checks=[response_schema_conformance])
            return
        assert response.status_code in EXPECTED_ERRORS, f"{response.status_code}: {response.text}"
        ErrorResponse.model_validate_json(response.content)

    answered()


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_tells_its_answers_its_errors_and_its_key(service: str, tmp_path: Path) -> None:
    with SERVICES[service](tmp_path) as app:
        schema = app.openapi()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in schema["components"]["schemas"], "a body that no service answers with"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            refused = answers.pop("default")["content"]["application/json"]["schema"]
            assert refused == {"$ref": "#/components/schemas/ErrorResponse"}, path
            assert operation["security"] == [{"HTTPBearer": []}], path
            [(_, answer)] = answers.items()
            assert all(content["schema"] for content in answer["content"].values()), f"{method} {path}"


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_not_there_says_where_to_look(service: str, tmp_path: Path) -> None:
    with SERVICES[service](tmp_path) as app:
        client = TestClient(app, base_url=LOCAL)
        nothing, other = client.get("/v1/nothing"), client.delete("/openapi.json")
    told = [ErrorResponse.model_validate_json(answer.content).error.message for answer in (nothing, other)]
    assert told[0] == "there is nothing at '/v1/nothing'; /openapi.json says what there is"
    assert (other.status_code, told[1].startswith("expected "), "got DELETE" in told[1]) == (405, True, True)


@pytest.mark.parametrize("service", SERVICES)
def test_a_body_is_json_says_so_and_is_text(service: str, tmp_path: Path) -> None:
    with SERVICES[service](tmp_path) as app:
        client = TestClient(app, base_url=LOCAL, raise_server_exceptions=False)
        paths = list(taking_json(app))
        for path in paths:
            refused_as_no_json(client, path)
        assert len(paths) >= 2


@pytest.mark.parametrize("service", SERVICES)
def test_a_field_that_may_be_left_out_may_be_null(service: str, tmp_path: Path) -> None:
    with SERVICES[service](tmp_path) as app:
        client = TestClient(app, base_url=LOCAL, raise_server_exceptions=False)
        schemas = app.openapi()["components"]["schemas"]
        tried = 0
        for path in taking_json(app):
            schema = schemas[body_schema(app, path)]
            body = {name: LEAST[name] for name in schema["required"]}
            absent = client.post(path, json=body)
            for name in schema["properties"].keys() - body.keys():
                null = client.post(path, json=body | {name: None})
                assert null.status_code == absent.status_code, f"{path} {name}: {null.text}"
                tried += 1
        assert tried > 0 or service == "inspector", "the inspector's bodies have required fields alone"


def body_schema(app: FastAPI, address: str) -> str:
    """The name of the schema of what is posted to this address."""
    found = next(path for path in app.openapi()["paths"] if re.sub(r"\{\w+\}", "1", path) == address)
    content = app.openapi()["paths"][found]["post"]["requestBody"]["content"]["application/json"]
    return str(content["schema"]["$ref"]).rpartition("/")[2]


def taking_json(app: FastAPI) -> Iterator[str]:
    """Addresses to which a body in JSON is posted; it is read before what stands in their place for a parameter."""
    for path, operations in app.openapi()["paths"].items():
        if "application/json" in operations.get("post", {}).get("requestBody", {}).get("content", {}):
            yield re.sub(r"\{\w+\}", "1", path)


def refused_as_no_json(client: TestClient, path: str) -> None:
    form = client.post(path, data={"text": "x"})
    assert (form.status_code, "Content-Type: application/json" in form.text) == (415, True), path

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(NO_TEXT | CUT_OFF)
    def refused(content: str) -> None:
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        message = ErrorResponse.model_validate_json(answer.content).error.message
        assert (answer.status_code, "at line 1 column" in message) == (400, True), f"{path}: {answer.text}"

    refused()
