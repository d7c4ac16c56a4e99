"""From jobs to engine requests and back, and generating so that one bad job takes no other along, nor a long prompt the
rest of its job. No I/O."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.student.engines.port import (
    UNANSWERED,
    Engine,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    PromptTooLongError,
)
from shared.contracts.ids import seed_of
from shared.contracts.jobs import Job, JobInput, JobKind, JobOutput, PromptOutput, Sample
from shared.errors import MalformedMessageError, PromptError

ERROR_CHARACTERS = 400
"""Kept of an error's message: an envelope is limited, and its JSON may escape every character."""

ONE_FOR_EACH_ROLLOUT = frozenset({JobKind.FEEDBACK, JobKind.REVISE})
"""Of which each prompt is about another rollout, and the longest costs its own answer alone. A prompt of the others is
all that is asked."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Failure:
    """Why one batch of requests has no generations."""

    cause: Exception

    @property
    def text(self) -> str:
        return describe(self.cause)


def requests_for(job: Job, prompts: JobInput) -> list[GenerationRequest]:
    """One request a sample; sample j of prompt i is drawn with seed_of(job.seed, i, j).

    Raises MalformedMessageError if the input has other than `job.sequences` samples.
    """
    spared = job.kind in ONE_FOR_EACH_ROLLOUT
    requests = [
        GenerationRequest(job.version, prompt.messages, job.sampling, seed_of(job.seed, i, j), may_go_unanswered=spared)
        for i, prompt in enumerate(prompts.prompts)
        for j in range(prompt.samples)
    ]
    if len(requests) != job.sequences:
        raise MalformedMessageError(f"job {job.id} announces {job.sequences} sequences; its input has {len(requests)}")
    return requests


def output_of(job: Job, prompts: JobInput, generations: Sequence[Generation]) -> JobOutput:
    """Generations, in the order of `requests_for`, as the job's output."""
    rest = iter(generations)
    outputs = [prompt_output([next(rest) for _ in range(prompt.samples)]) for prompt in prompts.prompts]
    return JobOutput(job_id=job.id, version=job.version, prompts=tuple(outputs))


def generate_each(
    engine: Engine, batches: Sequence[Sequence[GenerationRequest]], cancelled: threading.Event | None = None
) -> tuple[list[list[Generation] | Failure], bool]:
    """Generations of each batch, all run together; and whether they had to be run again one by one.

    If the engine fails on several batches at once, each is run alone once, so only the one at fault fails, and what
    somebody heard the beginning of. Raises GenerationCancelledError.
    """
    # In the order of the batches: rounding may depend on what shares a step and in which row.
    together = _attempt(engine, [request for batch in batches for request in batch], cancelled)
    if isinstance(together, Failure):
        if len(batches) == 1:
            return [together], False
        return [together if _heard(batch) else _attempt(engine, batch, cancelled) for batch in batches], True
    rest = iter(together)
    return [[next(rest) for _ in batch] for batch in batches], False


def describe(error: BaseException) -> str:
    """Class and message, short enough for an envelope."""
    return shortened(f"{type(error).__name__}: {error}")


def shortened(text: str) -> str:
    """The text cut to what an envelope takes, without what JSON cannot carry."""
    # A lone surrogate, which some errors quote, is a str that UTF-8 and so JSON cannot carry.
    return text[:ERROR_CHARACTERS].encode("utf-8", "replace").decode()


def _heard(batch: Sequence[GenerationRequest]) -> bool:
    return any(request.audience is not None and request.audience.heard for request in batch)


def _attempt(
    engine: Engine, requests: Sequence[GenerationRequest], cancelled: threading.Event | None
) -> list[Generation] | Failure:
    try:
        return engine.generate(requests, cancelled)
    except GenerationCancelledError:
        raise
    except PromptTooLongError as error:
        return _attempt_without_too_long(engine, requests, cancelled, error)
    except Exception as error:  # noqa: BLE001 - the engine is foreign code; what it raises belongs to its jobs
        return Failure(error)


def _attempt_without_too_long(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    cancelled: threading.Event | None,
    error: PromptTooLongError,
) -> list[Generation] | Failure:
    """Of the requests that may go unanswered those that are too long do, whatever is drawn beside them."""
    left_out = [request.may_go_unanswered and _too_long(engine, request) for request in requests]
    if not any(left_out):
        return Failure(error)
    log.warning("prompts too long to be answered", prompts=sum(left_out), error=describe(error))
    fitting = [request for request, out in zip(requests, left_out, strict=True) if not out]
    drawn = _attempt(engine, fitting, cancelled) if fitting else []
    if isinstance(drawn, Failure):
        return drawn
    rest = iter(drawn)
    return [UNANSWERED if out else next(rest) for out in left_out]


def _too_long(engine: Engine, request: GenerationRequest) -> bool:
    if engine.context is None:
        return False
    try:
        request.within(engine.context, engine.prompt_tokens(request.messages))
    except PromptTooLongError:
        return True
    except PromptError:
        return False  # what is wrong with it the engine says
    return False


def prompt_output(generations: Sequence[Generation]) -> PromptOutput:
    """The generations of one prompt, of which there is at least one."""
    samples = tuple(
        Sample(
            text=generation.judged,
            token_ids=tuple(generation.token_ids),
            logprobs=tuple(generation.logprobs),
            finish_reason=generation.finish_reason,
        )
        for generation in generations
    )
    return PromptOutput(prompt_token_ids=tuple(generations[0].prompt_token_ids), samples=samples)
