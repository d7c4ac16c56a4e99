"""The official `openai` client against a broker and two students that are up, each a process of its own."""

import asyncio
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from opcod.local.deployment import Deployment
from tests.fakes.waiting import WAIT_S


@pytest.fixture(scope="module", params=["broker", "student-a"])
def base_url(request: pytest.FixtureRequest, served: Deployment) -> str:
    """Of each service that speaks OpenAI's API."""
    return f"{address(served, request.param)}/v1"


def address(served: Deployment, service: str) -> str:
    found = {"broker": served.broker, "student-a": served.students[0]}[service]
    assert found is not None
    return found.url


@pytest.fixture(scope="module")
def client(base_url: str, served: Deployment) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key=served.key(), max_retries=0, timeout=WAIT_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def broker(served: Deployment) -> Iterator[OpenAI]:
    url = f"{address(served, 'broker')}/v1"
    with OpenAI(base_url=url, api_key=served.key(), max_retries=0, timeout=WAIT_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def messages(known_question: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": known_question}]


def test_a_chat_is_answered_by_an_exact_version(client: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    answer = client.chat.completions.create(
        model="a", messages=messages, n=2, seed=3, max_completion_tokens=60, stop="=", user="me"
    )
    assert (answer.model, len(answer.choices)) == ("a@v0", 2)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    for choice in answer.choices:
        assert choice.finish_reason == "stop" and choice.message.content and "=" not in choice.message.content
    again = client.chat.completions.create(
        model="a@v0", messages=messages, n=2, seed=3, max_completion_tokens=60, stop="="
    )
    assert [choice.message for choice in again.choices] == [choice.message for choice in answer.choices]
    assert answer._request_id and answer.id == f"chatcmpl-{answer._request_id}"


def test_log_probs_carry_bytes_and_alternatives(client: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    answer = client.chat.completions.create(model="a", messages=messages, seed=3, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert choice.logprobs is not None and choice.logprobs.content and choice.message.content
    told = bytes(byte for token in choice.logprobs.content for byte in token.bytes or ())
    assert told.decode() == choice.message.content
    assert all(token.top_logprobs and token.logprob <= 0 for token in choice.logprobs.content)


def test_completions_score_a_prompt_of_ids(client: OpenAI) -> None:
    prompts = [list(b"2 + 2 = 4"), list(b"2 + 2 = 5")]
    answer = client.completions.create(
        model="a", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, echo=True, seed=1234
    )
    assert (answer.model, len(answer.choices)) == ("a@v0", 2)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == len(prompt) + 1
        assert choice.text.startswith(bytes(prompt).decode())
    plain = client.completions.create(model="a@v0", prompt="2 + 2 =", stop=["."])
    assert plain.choices[0].text and plain.choices[0].logprobs is None


def test_a_stream_is_the_same_answer_bit_by_bit(client: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    whole = client.chat.completions.create(model="a", messages=messages, seed=3)
    stream = client.chat.completions.create(
        model="a", messages=messages, seed=3, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 3
    assert (last.choices, last.usage) == ([], whole.usage)


def test_the_clients_own_stream_helper_puts_it_together(
    client: OpenAI, messages: list[ChatCompletionMessageParam]
) -> None:
    with client.chat.completions.stream(model="a", messages=messages, seed=3) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop" and final.choices[0].message.content


def test_many_at_once(base_url: str, served: Deployment, messages: list[ChatCompletionMessageParam]) -> None:
    async def scene() -> list[str | None]:
        async with AsyncOpenAI(base_url=base_url, api_key=served.key(), timeout=WAIT_S) as client:

            async def streamed(seed: int) -> str:
                stream = await client.chat.completions.create(model="a", messages=messages, seed=seed, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def whole(seed: int) -> str | None:
                answer = await client.chat.completions.create(model="a", messages=messages, seed=seed)
                return answer.choices[0].message.content

            return await asyncio.gather(*(ask(seed) for seed in range(8) for ask in (streamed, whole)))

    answers = asyncio.run(scene())
    assert answers[::2] == answers[1::2]
    assert len(set(answers)) > 1


def test_errors_are_the_clients_own(client: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=messages)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="a", messages=messages, frequency_penalty=1.5)
    assert (refused.value.param, refused.value.type) == ("frequency_penalty", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="colour") as unknown:
        client.chat.completions.create(model="a", messages=messages, extra_body={"colour": "red"})
    assert unknown.value.code == "unknown_parameter"
    with pytest.raises(openai.BadRequestError, match="response_format"):
        client.chat.completions.create(model="a", messages=messages, response_format={"type": "json_object"})
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model="a", messages=messages, max_tokens=0, stream=True)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-5", prompt="2 + 2 =")
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="sk-wrong").models.list()
    assert stranger.value.code == "invalid_api_key"


def test_models_are_listed_and_shown(client: OpenAI, broker: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {"a", "a@v0"} <= listed
    assert client.models.retrieve("a@v0").owned_by == "opcod"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a@v9")
    assert {model.id for model in broker.models.list()} == {"a", "a@v0", "b", "b@v0", "peers"}


def test_the_peers_answer_as_one_model(broker: OpenAI, messages: list[ChatCompletionMessageParam]) -> None:
    whole = broker.chat.completions.create(model="peers", messages=messages, seed=3)
    text = whole.choices[0].message.content
    assert whole.model == "peers" and text is not None and whole.usage is not None
    assert text.startswith("**a (a@v0) answers:**") and "**b (b@v0) says, on the concept" in text
    stream = broker.chat.completions.create(
        model="peers", messages=messages, seed=3, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    stages = [content for chunk in chunks if (content := chunk.choices[0].delta.content)]
    assert len(stages) >= 2 and "".join(stages) == text
    assert last.usage == whole.usage


@pytest.mark.parametrize("change", [{"n": 2}, {"logprobs": True}, {"messages": []}])
def test_what_the_peers_cannot_follow_is_refused(
    broker: OpenAI, messages: list[ChatCompletionMessageParam], change: dict[str, object]
) -> None:
    conversation = [*messages, {"role": "assistant", "content": "4"}, *messages]
    wanted = {"messages": conversation} if "messages" in change else {"messages": messages} | change
    with pytest.raises(openai.BadRequestError) as refused:
        broker.chat.completions.create(model="peers", **wanted)
    assert refused.value.param == next(iter(change))


NOTHING = {
    "n": 1,
    "stop": None,
    "temperature": 0,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "response_format": {"type": "text"},
    "logprobs": False,
    "top_logprobs": None,
    "seed": 3,
    "store": True,
    "metadata": {"a": "b"},
    "user": "me",
    "service_tier": "auto",
    "max_completion_tokens": 3000,
}
"""Options that change nothing where sampling is greedy, with a limit far above the run's own."""


@pytest.mark.parametrize("model", ["a", "peers"])
def test_options_that_change_nothing_are_taken(
    broker: OpenAI, messages: list[ChatCompletionMessageParam], model: str
) -> None:
    plain, full = (
        broker.chat.completions.create(model=model, messages=messages, **options)
        for options in ({"temperature": 0, "seed": 3}, NOTHING)
    )
    assert full.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize("model", ["a", "peers"])
@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"logit_bias": {"50256": -100}},
        {"modalities": ["text", "audio"]},
        {"reasoning_effort": "high"},
        {"moderation": {"model": "m"}},
        {"top_p": 2},
        {"temperature": -1},
        {"n": 99},
        {"top_logprobs": 3},
        {"response_format": {"type": "json_schema"}},
        {"stream_options": {"include_usage": True}},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"extra_body": {"top_k": 5}},
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else None,
)
def test_options_that_would_change_the_answer_are_refused_by_their_name(
    broker: OpenAI, messages: list[ChatCompletionMessageParam], model: str, change: dict[str, object]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        broker.chat.completions.create(model=model, messages=messages, **change)  # type: ignore[call-overload]
    name = next(iter(change))
    assert refused.value.param == ("top_k" if name == "extra_body" else name)
    assert (refused.value.type, bool(refused.value.code)) == ("invalid_request_error", True)


def test_the_id_of_a_request_goes_all_the_way(served: Deployment, messages: list[ChatCompletionMessageParam]) -> None:
    headers = {"Authorization": f"Bearer {served.key()}", "x-request-id": "mine-17"}
    body = {"model": "a", "messages": messages}
    url = f"{address(served, 'broker')}/v1/chat/completions"
    answer = httpx2.post(url, json=body, headers=headers, timeout=WAIT_S, trust_env=False)
    assert answer.headers["x-request-id"] == "mine-17"
    assert answer.json()["id"] == "chatcmpl-mine-17"  # the student's, who was told it by the broker
    refused = httpx2.post(url, json=body | {"model": "x"}, headers=headers, trust_env=False)
    assert refused.headers["x-request-id"] == "mine-17"
