"""What of OpenAI's chat a student takes, refuses and leaves unread, and how it streams."""

import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from services.student.board import ANSWER_SILENCE_S, IDLE_BOUND_S
from services.student.engines.port import PromptTooLongError, RefusedError
from shared.contracts.openai import LEAST_TOP_P, ChatRequest, IncomingMessage, StreamOptions, TextPart
from shared.errors import OpcodError, PromptError
from tests.fakes.engine import BASE_CHECKSUM, CONTEXT, POISON
from tests.fakes.student import StudentBench

CHAT = {"model": "a", "messages": [{"role": "user", "content": "2 + 2?"}]}


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "a@v9"}, 404, "expected a model of a, a@v0, got 'a@v9'"),
        ({"model": "b"}, 404, "got 'b'"),
        ({"max_tokens": CONTEXT + 1}, 400, f"max_tokens: expected at most {CONTEXT}, the model's context"),
        ({"max_completion_tokens": CONTEXT + 1}, 400, f"in it, got {CONTEXT + 1}"),
        ({"max_tokens": 3, "max_completion_tokens": 2}, 400, "max_tokens: is the older name"),
        ({"n": 1_000_000}, 400, "n:"),
        ({"stop": ["", "x"]}, 400, "stop"),
        ({"stop": list("abcde")}, 400, "stop"),
        ({"stop": 3}, 400, "stop: expected a text or a list of texts, got 3"),
        ({"stop": ["x", None]}, 400, "stop.1: Input should be a valid string, got null"),
        ({"top_p": 1.5}, 400, "top_p: Input should be less than or equal to 1, got 1.5"),
        ({"messages": []}, 400, "messages: Array should have at least 1 item"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "taken, got image_url"),
        ({"messages": [{"role": "user", "content": 4}]}, 400, "expected a text or a list of text parts, got 4"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages.0.content.0.text: Field"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content: Field required"),
        ({"messages": [{"role": "tool", "content": "4"}]}, 400, "messages.0.role"),
        ({"tools": [{"type": "function"}]}, 400, "tools: this is not done here: leave it out or send []"),
        ({"prediction": {"type": "content"}}, 400, "prediction: this is not done here: leave it out"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"top_logprobs": 2}, 400, "top_logprobs: only with logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options: only with stream"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format: the engine of student a cannot"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format: expected json_schema with"),
        ({"colour": "red"}, 400, "colour: no such field is known here; leave it out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    client: TestClient, change: dict[str, object], status: int, says: str
) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"]
    assert error["param"].partition(".")[0] == next(iter(change))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_as_many_tokens_may_be_asked_for_as_the_model_has(client: TestClient, bench: StudentBench, field: str) -> None:
    assert client.post("/v1/chat/completions", json=CHAT | {field: CONTEXT}).status_code == 200
    (request,) = bench.engine.calls[-1]
    assert (request.sampling.max_tokens, request.fills_context) == (CONTEXT, False)


def test_however_much_is_asked_for_a_stuck_engine_is_told_as_soon(client: TestClient, bench: StudentBench) -> None:
    allowed: list[float] = []
    bench.engine.during = lambda: allowed.append(bench.board._expected_s - bench.clock.monotonic_s())
    assert client.post("/v1/chat/completions", json=CHAT | {"max_tokens": CONTEXT, "n": 16}).status_code == 200
    assert 0 < allowed[0] <= ANSWER_SILENCE_S + IDLE_BOUND_S < CONTEXT


def test_who_names_no_limit_gets_the_evaluations_or_what_the_context_leaves(
    client: TestClient, bench: StudentBench
) -> None:
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    (request,) = bench.engine.calls[-1]
    usual = bench.config.settings.evaluation.max_tokens
    assert (request.sampling.max_tokens, request.fills_context) == (usual, True)
    assert request.within(100, 99).sampling.max_tokens == 1
    assert request.within(100, 100 - usual) is request
    with pytest.raises(PromptTooLongError, match="at most 100 tokens, the model's context; got 100 of prompt"):
        request.within(100, 100)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        (PromptError("the model's chat template refuses these messages: System role not supported"), None, "messages"),
        (PromptTooLongError("9000 tokens; the model has 8192 positions"), "context_length_exceeded", "messages"),
        (RefusedError("vLLM refused: Invalid schema"), "invalid_value", "response_format"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_engine_finds_wrong_is_the_callers_fault_in_the_engines_words(
    client: TestClient, bench: StudentBench, error: OpcodError, code: str | None, param: str, stream: bool
) -> None:
    def refuse() -> None:
        raise error

    bench.board.guides, bench.engine.during = True, refuse
    wanted = {"response_format": {"type": "json_object"}, "stream": stream}
    answer = client.post("/v1/chat/completions", json=CHAT | wanted)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": str(error),
        "type": "invalid_request_error",
        "code": code,
        "param": param,
    }


NOT_READ = {
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "safety_identifier": "x",
    "prompt_cache_key": "y",
    "frequency_penalty": 0.0,
    "presence_penalty": 0,
    "logit_bias": {},
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "modalities": ["text"],
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "stream": False,
    "stop": None,
}


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    assert client.post("/v1/chat/completions", json=CHAT | NOT_READ).status_code == 200


@pytest.mark.parametrize("field", sorted(ChatRequest.model_fields.keys() - CHAT.keys()))
def test_an_optional_field_that_is_null_is_as_absent(client: TestClient, bench: StudentBench, field: str) -> None:
    for body in (CHAT, CHAT | {field: None}):
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    absent, null = ([replace(request, seed=0) for request in call] for call in bench.engine.calls[-2:])
    assert absent == null


@pytest.mark.parametrize(
    "change",
    [
        {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": None}},
        {"response_format": {"type": "text", "json_schema": None}},
    ],
)
def test_so_are_those_inside_of_others(client: TestClient, change: dict[str, object]) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | change)
    assert (answer.status_code, '"usage":{' in answer.text) == (200, "stream" not in change)


@pytest.mark.parametrize(("given", "used"), [(None, 0.95), (0, LEAST_TOP_P), (1, 1.0)])
def test_a_top_p_of_0_is_the_smallest_share(
    client: TestClient, bench: StudentBench, given: float | None, used: float
) -> None:
    assert client.post("/v1/chat/completions", json=CHAT | {"top_p": given}).status_code == 200
    assert bench.engine.calls[-1][0].sampling.top_p == used


@pytest.mark.parametrize(("given", "used"), [(1e-40, 0), (1e-6, 0), (1e-5, 1e-5), (0.3, 0.3)])
def test_a_temperature_that_logits_overflow_by_is_greedy(
    client: TestClient, bench: StudentBench, given: float, used: float
) -> None:
    assert client.post("/v1/chat/completions", json=CHAT | {"temperature": given}).status_code == 200
    assert bench.engine.calls[-1][0].sampling.temperature == used


def test_every_field_of_the_official_client_is_known() -> None:
    offered = CompletionCreateParamsBase.__annotations__.keys() | {"stream"}
    assert offered - ChatRequest.model_fields.keys() == set()
    for params, ours in (
        (ChatCompletionUserMessageParam, IncomingMessage),
        (ChatCompletionSystemMessageParam, IncomingMessage),
        (ChatCompletionAssistantMessageParam, IncomingMessage),
        (ChatCompletionContentPartTextParam, TextPart),
        (ChatCompletionStreamOptionsParam, StreamOptions),
    ):
        assert params.__annotations__.keys() - ours.model_fields.keys() == set()


def test_a_conversation_may_come_in_parts_with_what_clients_send_back(client: TestClient, bench: StudentBench) -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    back: dict[str, object] = {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
    }
    messages = [{"role": "developer", "content": "B"}, {"role": "user", "content": parts, "name": "me"}, back]
    assert client.post("/v1/chat/completions", json=CHAT | {"messages": messages}).status_code == 200
    told = [(message.role, message.content) for message in bench.engine.calls[-1][0].messages]
    assert told == [("system", "B"), ("user", "2 + 2?"), ("assistant", "4")]


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": None}}, {}),
    ],
)
def test_an_engine_that_can_keep_to_a_schema_gets_it(
    client: TestClient, bench: StudentBench, wanted: dict[str, object], schema: dict[str, object]
) -> None:
    bench.board.guides = True
    assert client.post("/v1/chat/completions", json=CHAT | {"response_format": wanted}).status_code == 200
    assert json.loads(str(bench.engine.calls[-1][0].json_schema)) == schema


def test_one_model_is_shown_and_an_unknown_one_is_not_found(client: TestClient) -> None:
    assert client.get("/v1/models/a@v0").json()["checksum"] == BASE_CHECKSUM
    assert client.get("/v1/models/a").json()["id"] == "a"
    missing = client.get("/v1/models/a@v9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_streamed_answer_comes_in_chunks(client: TestClient) -> None:
    wanted = {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "seed": 5, "logprobs": True}
    answer = client.post("/v1/chat/completions", json=CHAT | wanted)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert {chunk["model"] for chunk in chunks} == {"a@v0"}
    whole = client.post("/v1/chat/completions", json=CHAT | {"n": 2, "seed": 5, "logprobs": True}).json()
    for index in range(2):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(choice["delta"].get("content", "") for choice in own)
        logprobs = [token for choice in own if choice["logprobs"] for token in choice["logprobs"]["content"]]
        expected = whole["choices"][index]
        assert (text, logprobs) == (expected["message"]["content"], expected["logprobs"]["content"])
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("change", [{"model": "a@v9"}, {"messages": [{"role": "user", "content": POISON}]}])
def test_what_goes_wrong_before_the_first_chunk_is_an_ordinary_error(
    client: TestClient, change: dict[str, object]
) -> None:
    plain, streamed = (client.post("/v1/chat/completions", json=CHAT | change | {"stream": s}) for s in (False, True))
    assert streamed.status_code == plain.status_code >= 400
    assert streamed.json() == plain.json()
