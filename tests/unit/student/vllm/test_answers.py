"""An answer that is not what was asked for: an error that says so, whatever it is."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import AddedToken

from services.student.engines.port import EngineAwayError
from services.student.engines.tokens import TokenTable
from services.student.engines.vllm.client import joined
from services.student.engines.vllm.requests import Reading, probe_answer
from services.student.engines.vllm.wire import (
    ADAPTERS,
    Completion,
    Description,
    ServerChoice,
    ServerLoad,
    ServerLogprobs,
    require,
    server_load,
)
from shared.errors import ConfigError, ModelError
from shared.modeling.chat import encode
from shared.modeling.loading import load_tokenizer
from shared.modeling.thinking import AnswerText
from tests.fakes.audience import FakeAudience
from tests.fakes.vllm_bench import request
from tests.unit.modeling.tiny_model import write_tiny_model

TEXTS = [[1, 2], [3, 4]]


def listed(token: int) -> ServerChoice:
    return ServerChoice(logprobs=ServerLogprobs(top_logprobs=[{f"token_id:{token}": -1.0}]))


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([], "expected 2 choices, got 0"),
        ([listed(2)], "expected 2 choices, got 1"),
        ([listed(2), listed(4), listed(4)], "expected 2 choices, got 3"),
        ([listed(2), listed(5)], "the log-prob of token 4, it is missing"),
        ([listed(2), ServerChoice()], "the log-prob of token 4, it is missing"),
    ],
)
def test_a_probe_that_is_not_answered_says_what_is_missing(choices: list[ServerChoice], said: str) -> None:
    assert probe_answer(TEXTS, [listed(2), listed(4)]) == (-1.0, -1.0)
    with pytest.raises(ModelError, match=said):
        probe_answer(TEXTS, choices)


@pytest.mark.parametrize("token", [-1, 2**32, 10**30, 0.5, "a"])
def test_a_token_is_a_number_that_a_tokenizer_takes(token: object) -> None:
    with pytest.raises(ValidationError):
        Completion.model_validate({"choices": [{"token_ids": [token]}]})


@pytest.mark.parametrize("name", ["5", "token_id:", "token_id:x", "token_id:-1", f"token_id:{'9' * 5000}"])
def test_a_log_prob_is_of_a_token_by_its_id(name: str) -> None:
    with pytest.raises(ValidationError):
        Completion.model_validate({"choices": [{"logprobs": {"top_logprobs": [{name: -1.0}]}}]})


@pytest.mark.parametrize(
    "found",
    [{}, {"paths": {}}, {"components": []}, {"components": {"schemas": None}}, {"components": {"schemas": "x"}}],
)
def test_a_description_without_what_is_needed_is_of_a_server_that_lacks_it(found: object) -> None:
    with pytest.raises(ConfigError, match=r"lacks /v1/completions, .*`seed` of a completion"):
        require("0.32.0", Description.model_validate(found), ADAPTERS)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("", ServerLoad(None, 1)),
        (
            'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting_by_reason{engine="0"} 1.0\n',
            ServerLoad(None, 1),
        ),
        ("vllm:num_requests_running{} 2.0\nvllm:num_requests_waiting{} 1.0\n", ServerLoad(3.0, 1)),
        ("vllm:num_requests_running{} Nan\nvllm:num_requests_waiting{} 0.0\n", ServerLoad(None, 1)),
        (
            "".join(
                f'vllm:num_requests_{name}{{engine="{copy}",model_name="a}} 1"}} {copy}.0\n'
                for name in ("running", "waiting")
                for copy in range(3)
            ),
            ServerLoad(6.0, 3),
        ),
        ('vllm:num_requests_running{engine="4"} 1.0\nvllm:num_requests_waiting{engine="5"} 0.0\n', ServerLoad(1.0, 1)),
    ],
)
def test_what_a_server_has_in_hand_is_said_by_its_gauges(metrics: str, said: ServerLoad) -> None:
    assert server_load(metrics) == said


@pytest.mark.model
def test_thoughts_between_special_tokens_keep_their_marks(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tiny_model(tmp_path / "model"), None)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("[THINK]", "[/THINK]")])
    ids = encode(tokenizer, "[THINK]It is B.[/THINK]Check the sign.<|im_end|>")
    answer = ServerChoice(token_ids=ids, logprobs=ServerLogprobs(token_logprobs=[-1.0] * len(ids)))
    for asked in (request(), replace(request(), stop=("never",))):
        reading = Reading(AnswerText(tokenizer), TokenTable(tokenizer), asked)
        assert reading.generation([1], answer).text == "[THINK]It is B.[/THINK]Check the sign."


@pytest.mark.model
@pytest.mark.parametrize("streamed", [True, False])
def test_a_stop_string_that_only_our_text_has_ends_an_answer(tmp_path: Path, streamed: bool) -> None:
    tokenizer = load_tokenizer(write_tiny_model(tmp_path / "model"), None)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in ("[THINK]", "[/THINK]")])
    ids = encode(tokenizer, "[THINK]It is B.[/THINK]Check the sign.")
    audience = FakeAudience() if streamed else None
    asked = replace(request(), stop=("B.[/THINK]",), audience=audience)
    reading = Reading(AnswerText(tokenizer), TokenTable(tokenizer), asked)
    parts = [ServerChoice(token_ids=[each], logprobs=ServerLogprobs(token_logprobs=[-1.0])) for each in ids]
    if audience is not None:
        end = next(at for at, part in enumerate(parts) if not reading.hear(part))
        assert ids[end] == tokenizer.convert_tokens_to_ids("[/THINK]")
        parts = parts[: end + 1]
    sample = reading.generation([1], joined([*parts, ServerChoice(finish_reason="length")]))
    assert (sample.text, sample.finish_reason) == ("[THINK]It is ", "stop")
    assert audience is None or audience.text == sample.text


@pytest.mark.model
@pytest.mark.parametrize(("chosen", "tops"), [(1, 2), (3, 2), (2, 1), (2, 0)])
def test_log_probs_are_as_many_as_tokens(chosen: int, tops: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tiny_model(tmp_path / "model"), None)
    logprobs = ServerLogprobs(token_logprobs=[-1.0] * chosen, top_logprobs=[{"token_id:5": -1.0}] * tops)
    answer = ServerChoice(token_ids=[5, 6], logprobs=logprobs, finish_reason="stop")
    reading = Reading(AnswerText(tokenizer), TokenTable(tokenizer), replace(request(), top_logprobs=1))
    with pytest.raises(EngineAwayError, match="expected the log-probs of 2 tokens from vLLM, got"):
        reading.generation([1], answer)
