"""From a generation to a completion of vLLM's and back, and the questions of the probe. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.student.engines.port import Generation, GenerationRequest
from services.student.engines.vllm.wire import Choice

Decode = Callable[[list[int]], str]


def completion(request: GenerationRequest, model: str, prompt: Sequence[int], eos: frozenset[int]) -> dict[str, Any]:
    """The body of one sample's request. Its log-probs are those of the sampling: the server is started so."""
    sampling = request.sampling
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "stop": list(request.stop),
        "stop_token_ids": sorted(eos),
        "logprobs": 0,
        "return_token_ids": True,
    }


def generation(request: GenerationRequest, prompt: Sequence[int], choice: Choice, decode: Decode) -> Generation:
    """The sample as the port has it. Raises ValueError where ids and log-probs do not go together."""
    logprobs = choice.logprobs.token_logprobs
    if len(logprobs) != len(choice.token_ids):
        raise ValueError(f"expected a log-prob for each of {len(choice.token_ids)} tokens, got {len(logprobs)}")
    text = decode(choice.token_ids)
    if found := [at for stop in request.stop if (at := text.find(stop)) >= 0]:
        text = text[: min(found)]
    reason: Any = choice.finish_reason
    return Generation(text, list(prompt), choice.token_ids, logprobs, reason)


def probe_question(model: str, texts: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """One token after each beginning of each text, with the log-prob of the token that follows there.

    Not `prompt_logprobs`: with adapters on, vLLM 0.32 on a CPU dies of it.
    """
    beginnings = [list(ids[:end]) for ids in texts for end in range(1, len(ids))]
    return {
        "model": model,
        "prompt": beginnings,
        "max_tokens": 1,
        "temperature": 1.0,
        "logprobs": 0,
        "logprob_token_ids": sorted({token for ids in texts for token in ids[1:]}),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }


def probe_answer(texts: Sequence[Sequence[int]], choices: Sequence[Choice]) -> tuple[float, ...]:
    """The mean log-prob a token of each text. Raises ValueError where one is missing."""
    answers = iter(choices)
    return tuple(_mean([_follows(next(answers), ids[end]) for end in range(1, len(ids))]) for ids in texts)


def _follows(choice: Choice, token: int) -> float:
    (found,) = choice.logprobs.top_logprobs
    name = f"token_id:{token}"
    if name not in found:
        raise ValueError(f"expected the log-prob of token {token}, got {sorted(found)[:5]}")
    return found[name]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
