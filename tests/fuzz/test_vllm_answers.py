"""Whatever a server answers over its socket in vLLM's place: what was asked for in its shape, or an error of ours."""

from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from services.student.engines.port import Generation, Piece
from services.student.engines.tokens import TokenTable
from services.student.engines.vllm.client import Call, VllmClient
from services.student.engines.vllm.requests import Reading, probe_answer
from services.student.engines.vllm.server import base_of
from services.student.engines.vllm.wire import ADAPTERS, require
from shared.modeling.loading import load_tokenizer
from shared.modeling.thinking import AnswerText
from tests.fakes.vllm_bench import request
from tests.fuzz.harness import Fuzz
from tests.fuzz.mutation import Json, altered, json_like, written
from tests.fuzz.sayer import DEEDS, Sayer, an_answer
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model

TEXTS = [[1, 2, 3], [4, 5]]
MODELS = {"data": [{"id": "base", "root": "/m", "max_model_len": 4096}, {"id": "a@v1", "root": "/v", "parent": "base"}]}
VERSION = {"version": "0.32.0"}
DESCRIPTION = {
    "paths": {route: {} for route in ADAPTERS.routes},
    "components": {"schemas": {"CompletionRequest": {"properties": {name: {} for name in ADAPTERS.fields}}}},
}


def choice(index: int = 0, token: int = 5, **changes: Json) -> dict[str, Json]:
    listed = {"token_id:5": -0.5, "token_id:6": -1.5}
    logprobs = {"token_logprobs": [-0.5, -0.5], "top_logprobs": [listed, listed]}
    return {"index": index, "token_ids": [token, 6], "logprobs": logprobs, "finish_reason": "stop"} | changes


def probed(index: int, token: int) -> dict[str, Json]:
    logprobs = {"token_logprobs": [-2.0], "top_logprobs": [{f"token_id:{token}": -2.0}]}
    return choice(index, token_ids=[token], logprobs=logprobs)


ONE = {"choices": [choice()]}
PARTS = [{"choices": [choice(finish_reason=None)]}, {"choices": [choice()]}]
PROBE = {"choices": [probed(index, token) for index, token in enumerate((2, 3, 5))]}
KINDS: dict[str, Json] = {
    "models": MODELS,
    "version": VERSION,
    "description": DESCRIPTION,
    "one": ONE,
    "details": ONE,
    "stream": PARTS,
    "probe": PROBE,
}


class Silent:
    """An audience that is told everything and wants more."""

    gone = False
    heard = False

    def tell(self, piece: Piece) -> None:
        assert isinstance(piece.text, str)


@st.composite
def answers(draw: DrawFn) -> tuple[str, bytes]:
    """A kind of answer and its bytes: JSON or a stream that is altered, or any of it damaged, or another status."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    if kind == "stream":
        events = [b"data: " + written(draw(altered(part))) + b"\n\n" for part in KINDS[kind]]
        body, mime = b"".join((*events, b"data: [DONE]\n\n")), b"text/event-stream"
    else:
        body, mime = draw(json_like(KINDS[kind])), b"application/json"
    return kind, draw(an_answer(body, mime))


def test_answers(fuzz: Fuzz) -> None:
    tokenizer = load_tokenizer(write_tiny_model(fuzz.place / "model"), None)
    text, table = AnswerText(tokenizer), TokenTable(tokenizer)

    def generation(client: VllmClient, *, streamed: bool, details: bool) -> Generation:
        asked = replace(
            request(),
            audience=Silent() if streamed else None,
            top_logprobs=1 if details else None,
            stop=("xy",) if details else (),
        )
        reading = Reading(text, table, asked)
        (found,) = client.complete([Call({}, reading.hear if streamed else None)], lambda: None)
        return reading.generation([1], found)

    def attempt(case: tuple[str, bytes]) -> None:
        kind, server.answer = case
        found = fuzz.reads(lambda: readers[kind](), *DEEDS)
        if isinstance(found, Generation):
            assert len(found.token_ids) == len(found.logprobs)

    with Sayer() as server, closing(VllmClient(server.url, None)) as client:
        readers = {
            "models": lambda: base_of([model.id for model in client.models() if model.parent is None]),
            "version": client.version,
            "description": lambda: require("0.32.0", client.description(), ADAPTERS),
            "one": lambda: generation(client, streamed=False, details=False),
            "details": lambda: generation(client, streamed=False, details=True),
            "stream": lambda: generation(client, streamed=True, details=True),
            "probe": lambda: probe_answer(TEXTS, client.choices({})),
        }
        fuzz.run(answers(), attempt, examples=250)
