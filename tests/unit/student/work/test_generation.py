"""Requests of a job, its output, and errors that stay with the job they belong to."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.port import Generation, GenerationRequest, Piece, PromptTooLongError
from services.student.work.generation import (
    ERROR_CHARACTERS,
    Failure,
    describe,
    generate_each,
    output_of,
    requests_for,
)
from shared.contracts.envelope import MAX_ENVELOPE_BYTES, wrap
from shared.contracts.ids import seed_of
from shared.contracts.jobs import JobDone, JobInput, JobKind, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import MalformedMessageError
from tests.fakes.audience import FakeAudience
from tests.fakes.engine import POISON, FakeEngine
from tests.fakes.student import make_job


def request(text: str) -> GenerationRequest:
    sampling = Sampling(temperature=1, top_p=1, max_tokens=4)
    return GenerationRequest("a@v0", (ChatMessage(role="user", content=text),), sampling, 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**62))
def test_every_sample_has_its_own_seed_and_comes_back_in_its_place(samples: list[int], seed: int) -> None:
    prompts = JobInput(
        prompts=tuple(
            Prompt(messages=(ChatMessage(role="user", content=f"q{i}"),), samples=n) for i, n in enumerate(samples)
        )
    )
    job = make_job(JobKind.EVAL, 1)[0].model_copy(update={"seed": seed, "sequences": sum(samples)})
    requests = requests_for(job, prompts)
    assert len({each.seed for each in requests}) == sum(samples)
    engine = FakeEngine()
    engine.load("a@v0", None)
    output = output_of(job, prompts, engine.generate(requests))
    assert [len(answered.samples) for answered in output.prompts] == samples
    for i, answered in enumerate(output.prompts):
        assert answered.prompt_token_ids == tuple(f"q{i}".encode())
        assert [s.text for s in answered.samples] == [f"a@v0:{seed_of(seed, i, j)}" for j in range(samples[i])]


def test_an_input_of_another_size_is_refused() -> None:
    job, prompts = make_job(JobKind.ROLLOUT, 1, samples=2)
    with pytest.raises(MalformedMessageError, match="announces 3 sequences; its input has 2"):
        requests_for(job.model_copy(update={"sequences": 3}), prompts)


@pytest.mark.parametrize(
    ("texts", "failed", "calls"),
    [
        (["x", "y"], [], 1),
        ([POISON], [0], 1),
        (["x", POISON, "y"], [1], 4),
        ([POISON, POISON], [0, 1], 3),
    ],
)
def test_a_batch_that_fails_is_run_again_one_by_one(texts: list[str], failed: list[int], calls: int) -> None:
    engine = FakeEngine()
    engine.load("a@v0", None)
    results, again = generate_each(engine, [[request(text), request(text)] for text in texts])
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == failed
    assert len(engine.calls) == calls
    assert again is (calls > 1)


class Narrow(FakeEngine):
    """Refuses what does not fit, as engines with a model do."""

    context = 10

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        for each in requests:
            each.within(self.context, self.prompt_tokens(each.messages))
        return super().generate(requests, cancelled)


def asked(kind: JobKind, *texts: str) -> list[GenerationRequest]:
    prompts = [Prompt(messages=(ChatMessage(role="user", content=text),), samples=1) for text in texts]
    job = make_job(kind, 1)[0].model_copy(update={"sequences": len(texts)})
    return requests_for(job, JobInput(prompts=tuple(prompts)))


LONG = "x" * 9


@pytest.mark.parametrize(
    ("batches", "tokens"),
    [
        ([asked(JobKind.FEEDBACK, "x", LONG, "y")], [[3, 0, 3]]),
        ([asked(JobKind.REVISE, LONG, "x", LONG)], [[0, 3, 0]]),
        ([asked(JobKind.FEEDBACK, LONG, "x"), asked(JobKind.REVISE, "y", LONG)], [[0, 3], [3, 0]]),
        ([asked(JobKind.FEEDBACK, LONG, "x"), asked(JobKind.EVAL, "y", "z")], [[0, 3], [3, 3]]),
        ([asked(JobKind.FEEDBACK, LONG, "x"), asked(JobKind.EVAL, LONG, "z")], [[0, 3], None]),
        ([asked(JobKind.ROLLOUT, LONG, "x")], [None]),
        ([asked(JobKind.FEEDBACK, LONG, LONG)], [[0, 0]]),
        ([asked(JobKind.FEEDBACK, LONG, LONG), asked(JobKind.EVAL, "y", "z")], [[0, 0], [3, 3]]),
    ],
)
def test_a_prompt_that_is_too_long_costs_its_own_feedback_or_revision_alone(
    batches: list[list[GenerationRequest]], tokens: list[list[int] | None]
) -> None:
    engine = Narrow()
    engine.load("a@v0", None)
    results, _ = generate_each(engine, batches)
    for result, expected in zip(results, tokens, strict=True):
        if expected is None:
            assert isinstance(result, Failure) and isinstance(result.cause, PromptTooLongError)
        else:
            assert not isinstance(result, Failure) and [len(each.token_ids) for each in result] == expected


@pytest.mark.parametrize("filler", ["x", "\\", "\x00", '"', "\u2028", "\ud800", "🙂"])
def test_any_error_fits_into_an_envelope(filler: str) -> None:
    error = describe(RuntimeError(filler * 5000))
    assert len(error) <= ERROR_CHARACTERS and error.startswith("RuntimeError: ")
    done = JobDone(
        job_id="j", kind=JobKind.EVAL, student="a", replica="0", outcome="failed", error=error, version="a@v0"
    )
    assert len(wrap(done)) <= MAX_ENVELOPE_BYTES


def test_what_somebody_heard_the_beginning_of_is_not_run_again() -> None:
    """It would be told twice: it fails with what went wrong, and the others are run again."""
    heard, unheard = FakeAudience(), FakeAudience()
    batches = [[replace(request("x"), audience=heard)], [replace(request("y"), audience=unheard)]]
    engine = FakeEngine()
    engine.load("a@v0", None)

    def fail_once() -> None:
        engine.during = lambda: None
        heard.tell(Piece("a"))
        raise RuntimeError("out of memory")

    engine.during = fail_once
    (first, second), again = generate_each(engine, batches)
    assert isinstance(first, Failure) and "out of memory" in first.text
    assert not isinstance(second, Failure) and unheard.text == second[0].text
    assert (again, heard.text) == (True, "a")
