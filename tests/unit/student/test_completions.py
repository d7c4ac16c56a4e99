"""OpenAI's completions on a student: prompts of every form, log-probs of prompt and answer, as lm-eval asks."""

import json
import math
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types.completion_create_params import CompletionCreateParamsBase

from services.student.engines.port import PromptTooLongError, RefusedError
from services.student.engines.scripted import LOGPROB, Script, ScriptedEngine
from services.student.http.chat import Answering
from services.student.http.completions import completion_requests, completion_response
from shared.contracts.completions import MAX_SEQUENCES, USUAL_TOKENS, CompletionRequest
from shared.contracts.messages import Sampling
from shared.errors import PromptError
from tests.fakes.engine import BASE_CHECKSUM, CONTEXT
from tests.fakes.student import StudentBench

ASK: dict[str, Any] = {"model": "a", "prompt": "2 + 2 ="}
LM_EVAL: dict[str, Any] = {"model": "a", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
"""What lm-eval's `local-completions` sends to score, but for the prompts."""


def scores_of(answer: dict[str, Any], contexts: list[int]) -> list[tuple[float, bool]]:
    """As lm-eval reads an answer: the sum over a continuation, and whether it is the likeliest one."""
    found = []
    for choice, context in zip(sorted(answer["choices"], key=itemgetter("index")), contexts, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        found.append((sum(logprobs), all(one == max(top.values()) for one, top in zip(logprobs, tops, strict=True))))
    return found


def answered(body: dict[str, Any], engine: Any) -> dict[str, Any]:
    """By an engine that holds a@v0, without anything between."""
    request = CompletionRequest.model_validate(body)
    sampling = Sampling(
        temperature=request.temperature or 0, top_p=request.nucleus or 1, max_tokens=request.token_limit or 1
    )
    generations = engine.generate(completion_requests(request, "a@v0", sampling, 7))
    answer = completion_response(Answering("cmpl-1", 1, "a@v0", None), request, generations)
    return dict(json.loads(answer.model_dump_json()))


@pytest.fixture
def scripted() -> ScriptedEngine:
    engine = ScriptedEngine(Script(problems=()))
    engine.load("a@v0", None)
    return engine


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("2 + 2 =", ["2 + 2 ="]),
        (["2 + 2 =", "3 + 3 ="], ["2 + 2 =", "3 + 3 ="]),
        ([50, 32], [(50, 32)]),
        ([[50, 32], [51]], [(50, 32), (51,)]),
    ],
)
def test_a_prompt_is_a_text_or_ids_or_several(
    client: TestClient, bench: StudentBench, prompt: object, asked: list[object]
) -> None:
    answer = client.post("/v1/completions", json=ASK | {"prompt": prompt, "n": 2, "seed": 1})
    assert answer.status_code == 200, answer.text
    requests = bench.engine.calls[-1]
    assert [request.prompt for request in requests] == [one for one in asked for _ in range(2)]
    assert len({request.seed for request in requests}) == len(requests)
    body = answer.json()
    assert [choice["index"] for choice in body["choices"]] == list(range(len(requests)))
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("text_completion", "a@v0", BASE_CHECKSUM)
    assert (body["usage"]["completion_tokens"], body["choices"][0]["logprobs"]) == (3 * len(requests), None)


def test_what_is_not_said_is_openais_limit_and_the_evaluations_sampling(
    client: TestClient, bench: StudentBench
) -> None:
    client.post("/v1/completions", json=ASK)
    (request,) = bench.engine.calls[-1]
    assert (request.sampling.max_tokens, request.fills_context, request.echo) == (USUAL_TOKENS, True, False)
    assert request.sampling.temperature == 0.6
    client.post("/v1/completions", json=ASK | {"max_tokens": CONTEXT})
    (request,) = bench.engine.calls[-1]
    assert (request.sampling.max_tokens, request.fills_context) == (CONTEXT, False)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "b"}, 404, "got 'b'"),
        ({"prompt": ""}, 400, "prompt: String should have at least 1 character"),
        ({"prompt": []}, 400, "prompt: expected a text, a list of token ids"),
        ({"prompt": [[]]}, 400, "prompt.0: Array should have at least 1 item"),
        ({"prompt": 4}, 400, "prompt: expected a text, a list of token ids"),
        ({"prompt": [50, "2"]}, 400, "prompt.1: Input should be a valid integer"),
        ({"prompt": [-1]}, 400, "prompt.0: Input should be greater than or equal to 0"),
        ({"prompt": ["x"] * (MAX_SEQUENCES + 1)}, 400, f"prompt: at most {MAX_SEQUENCES} prompts"),
        ({"max_tokens": 0}, 400, "max_tokens: 0 draws nothing"),
        ({"max_tokens": CONTEXT + 1}, 400, f"max_tokens: expected at most {CONTEXT}, the model's context"),
        ({"logprobs": 21}, 400, "logprobs:"),
        ({"stop": ["", "x"]}, 400, "stop: at most 16"),
        ({"stream": True}, 400, "stream: this is not done here: leave it out or send False"),
        ({"suffix": "end"}, 400, "suffix: this is not done here"),
        ({"best_of": 2}, 400, "best_of: this is not done here"),
        ({"messages": []}, 400, "messages: no such field is known here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    client: TestClient, change: dict[str, object], status: int, says: str
) -> None:
    answer = client.post("/v1/completions", json=ASK | change)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in error["message"]
    assert error["param"].partition(".")[0] == next(iter(change))


@pytest.mark.parametrize(
    ("fault", "change", "param"),
    [
        (PromptTooLongError("too long"), {}, "prompt"),
        (PromptError("prompt: expected ids below 9"), {}, "prompt"),
        (RefusedError("not scored"), {"echo": True}, "echo"),
    ],
)
def test_what_an_engine_refuses_is_the_requests_fault(
    client: TestClient, bench: StudentBench, fault: Exception, change: dict[str, object], param: str
) -> None:
    def refuse() -> None:
        raise fault

    bench.engine.during = refuse
    answer = client.post("/v1/completions", json=ASK | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_every_field_of_openais_is_known() -> None:
    theirs = set(CompletionCreateParamsBase.__annotations__)
    assert theirs <= set(CompletionRequest.model_fields) | {"stream"}


def test_lm_evals_request_gets_what_lm_eval_reads(scripted: ScriptedEngine) -> None:
    prompts = [list(b"The sky is blue"), list(b"2 + 2 = 5")]
    answer = answered(LM_EVAL | {"prompt": prompts}, scripted)
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"]) == len(prompt) + 1
        assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert [choice["text"][at:][:1] for at in logprobs["text_offset"]] == list(choice["text"])
    assert scores_of(answer, [10, 8]) == [(5 * LOGPROB, True), (LOGPROB, True)]
    assert answer["usage"] == {"prompt_tokens": 24, "completion_tokens": 2, "total_tokens": 26}


def test_an_answer_that_ends_at_once_leaves_the_prompts_scores_where_they_are(scripted: ScriptedEngine) -> None:
    """The token that ends it has an entry: whoever drops the last one drops no token of the prompt."""
    whole = answered(ASK | {"echo": True, "logprobs": 0, "max_tokens": 500}, scripted)["choices"][0]
    assert whole["finish_reason"] == "stop"
    assert len(whole["logprobs"]["tokens"]) == len(whole["text"].encode()) + 1
    assert whole["logprobs"]["tokens"][-1] == ""


def test_a_prompt_alone_is_scored(scripted: ScriptedEngine) -> None:
    answer = answered(ASK | {"echo": True, "logprobs": 2, "max_tokens": 0}, scripted)
    (choice,) = answer["choices"]
    assert (choice["text"], len(choice["logprobs"]["tokens"])) == ("2 + 2 =", 7)
    assert answer["usage"]["completion_tokens"] == 0


def test_a_character_of_several_tokens_begins_once(scripted: ScriptedEngine) -> None:
    (choice,) = answered(ASK | {"prompt": "aé!", "echo": True, "logprobs": 0, "max_tokens": 0}, scripted)["choices"]
    assert choice["text"] == "aé!"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2]


@pytest.mark.model
def test_scores_are_the_models_own(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    from services.student.engines.transformers import TransformersEngine
    from shared.modeling.loading import load_model
    from tests.unit.modeling.tiny_model import write_tiny_model

    directory = write_tiny_model(tmp_path / "tiny", context=512)
    engine = TransformersEngine(directory, None, "float32", slots=4, threads=1)
    engine.load("a@v0", None)
    prompts = [[256, *b"The sky is blue"], list(b"x" * 300), [7]]
    answer = answered(LM_EVAL | {"prompt": prompts, "logprobs": 3}, engine)
    model = load_model(directory, "float32")
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        with torch.no_grad():
            logits_TV = model(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long)
            ).logits[0]
        expected_TV = logits_TV.float().log_softmax(-1)
        told = choice["logprobs"]
        own = [expected_TV[at, token].item() for at, token in enumerate(prompt[1:])]
        assert told["token_logprobs"][1:-1] == pytest.approx(own, abs=1e-4)
        assert told["token_logprobs"][-1] == pytest.approx(expected_TV[-1].max().item(), abs=1e-4)
        for at, top in enumerate(told["top_logprobs"][1:-1]):
            assert max(top.values()) == pytest.approx(expected_TV[at].max().item(), abs=1e-4)
    with pytest.raises(PromptError, match="expected ids below 258"):
        answered(ASK | {"prompt": [258], "echo": True}, engine)
    assert answered(ASK | {"prompt": "<|im_end|>", "echo": True, "max_tokens": 0}, engine)["choices"][0]["text"] == (
        "< |im_end|>"
    ), "a text is a text"
    assert not any(math.isnan(one) for one in told["token_logprobs"][1:])
