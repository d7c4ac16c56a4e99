"""From a generation to a completion of vLLM's and back, and the questions of the probe. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from services.student.engines.port import EngineAwayError, Generation, GenerationRequest, NotFiniteError, TokenDetail
from services.student.engines.tokens import TokenTable
from services.student.engines.transcript import Transcript
from services.student.engines.vllm.wire import AS_IDS, ServerChoice
from shared.errors import ModelError
from shared.modeling.thinking import AnswerText

PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""No other sampling than temperature and top-p: what is left out a server takes from its model's
`generation_config.json`, if nobody told it not to, and then it draws from another policy than the trainer's."""


def completion(request: GenerationRequest, model: str, prompt: Sequence[int], eos: frozenset[int]) -> dict[str, Any]:
    """The body of one sample's request. Its log-probs are those of the sampling: the server is started so."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **PLAIN,
        "seed": request.seed,
        "stop": list(request.stop),
        "stop_token_ids": sorted(eos),
        # 0 still brings the log-prob of the drawn token; None would bring none.
        "logprobs": request.top_logprobs or 0,
        **AS_IDS,
    }
    if request.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


CERTAIN_NATS = 1e-3


class Reading:
    """One sample as it comes: the text and the details of its tokens, told to whoever watches."""

    def __init__(self, text: AnswerText, table: TokenTable, request: GenerationRequest) -> None:
        self._text = text
        self._table = table
        self._request = request
        plain = request.audience is None and not request.stop and request.top_logprobs is None
        self._transcript = None if plain else Transcript(text, request)
        self._stopped = False

    @property
    def streamed(self) -> bool:
        return self._request.audience is not None

    def hear(self, part: ServerChoice) -> bool:
        """Take in more of it; whether somebody still wants the rest. Raises NotFiniteError."""
        self._add(part)
        # The last part is told by `generation`, which alone knows that no byte follows.
        if self._transcript is not None and part.finish_reason is None and not self._stopped:
            self._transcript.tell()
        # A server looks for stop strings in a text without special tokens, and ours has some of them.
        return not self._request.unwanted and not self._stopped

    def generation(self, prompt: Sequence[int], choice: ServerChoice) -> Generation:
        """The sample as the port has it; a streamed one was heard before. Raises EngineAwayError for a broken answer.

        Raises NotFiniteError where the model gave no numbers.
        """
        _require_one_each(choice.token_ids, choice.token_logprobs)
        if not self.streamed:
            self._add(choice)
        details: tuple[TokenDetail, ...] = ()
        if self._transcript is None:
            text = self._text.of(choice.token_ids)
        else:
            text, details = self._transcript.end()
        reason: Literal["stop", "length"] = "stop" if choice.finish_reason == "stop" or self._stopped else "length"
        opened = self._text.opened if self._request.prompt is None else ""
        return Generation(text, list(prompt), choice.token_ids, choice.token_logprobs, reason, details, opened=opened)

    def _add(self, part: ServerChoice) -> None:
        if not all(map(math.isfinite, part.token_logprobs)):
            raise NotFiniteError(self._request.version)
        if self._transcript is None:
            return
        if self._request.top_logprobs is not None:
            _require_one_each(part.token_ids, part.token_logprobs)
            _require_one_each(part.token_ids, part.top_logprobs)
        for place, token in enumerate(part.token_ids):
            self._stopped = self._transcript.add(token, self._detail(part, place, token))

    def _detail(self, part: ServerChoice, place: int, token: int) -> TokenDetail | None:
        """The server lists the drawn token besides the best ones."""
        if self._request.top_logprobs is None:
            return None
        listed = {token_of(name): logprob for name, logprob in part.top_logprobs[place].items()}
        best = sorted(listed.items(), key=lambda one: -one[1])[: self._request.top_logprobs]
        drawn = self._table.choice(token, part.token_logprobs[place])
        return TokenDetail(drawn, tuple(self._table.choice(*one) for one in best))


def probe_question(model: str, texts: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """One token after each beginning of each text, with the log-prob of the token that follows there.

    Not `prompt_logprobs`: with adapters on, vLLM 0.32 on a CPU dies of it.
    """
    return {
        "model": model,
        "prompt": [list(ids[:end]) for ids in texts for end in range(1, len(ids))],
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        **PLAIN,
        "logprobs": 0,
        "logprob_token_ids": sorted({token for ids in texts for token in ids[1:]}),
        **AS_IDS,
    }


def drawing_question(model: str, texts: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """One token behind each text's beginning, drawn where the likeliest one alone is left to draw."""
    return {
        "model": model,
        "prompt": [list(ids[:end]) for ids in texts for end in (1, 2)],
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1e-6,
        **PLAIN,
        "logprobs": 0,
        **AS_IDS,
    }


def of_the_drawing(choices: Sequence[ServerChoice]) -> bool:
    """Whether the log-probs that answer `drawing_question` are those of the drawing, in which one token had it all.

    One is enough: those of the model itself are never 0, and of two tokens that are equally likely each has a half.
    """
    return any(abs(logprob) < CERTAIN_NATS for choice in choices for logprob in choice.token_logprobs)


def probe_answer(texts: Sequence[Sequence[int]], choices: Sequence[ServerChoice]) -> tuple[float, ...]:
    """The mean log-prob a token of each text. Raises ModelError where one is missing."""
    asked = sum(len(ids) - 1 for ids in texts)
    if len(choices) != asked:
        raise ModelError(f"vLLM does not answer the probe: expected {asked} choices, got {len(choices)}")
    answers = iter(choices)
    return tuple(_mean([_follows(next(answers), ids[end]) for end in range(1, len(ids))]) for ids in texts)


def token_of(name: str) -> int:
    """`token_id:<n>` -> n."""
    return int(name.removeprefix("token_id:"))


def _follows(choice: ServerChoice, token: int) -> float:
    for found in choice.top_logprobs[:1]:
        if f"token_id:{token}" in found:
            return found[f"token_id:{token}"]
    raise ModelError(f"vLLM does not answer the probe: expected the log-prob of token {token}, it is missing")


def _require_one_each(token_ids: Sequence[int], numbers: Sequence[object]) -> None:
    if len(numbers) != len(token_ids):
        raise EngineAwayError(f"expected the log-probs of {len(token_ids)} tokens from vLLM, got {len(numbers)}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
