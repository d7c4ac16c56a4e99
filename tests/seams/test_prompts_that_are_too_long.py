"""A feedback whose prompt is longer than the tutor's context is `fb_none` for its rollout; the others of its group have
theirs."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine's half of the way needs torch: make setup installs it")

from services.broker.exchange.judging import exchanges
from services.student.engines.transformers import TransformersEngine
from services.student.work.generation import Failure, generate_each, output_of, requests_for
from shared.contracts.jobs import JobInput, JobKind, Prompt, PromptOutput, Sample
from shared.contracts.messages import ChatMessage
from shared.method.anchoring import FB_NONE
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from tests.fakes.student import make_job
from tests.unit.modeling.tiny_model import write_tiny_model

PROBLEM = Problem("p", "physics", "", "Which force?\n\nA: none\nB: friction", "B")


def test_the_others_of_its_group_have_their_feedback(tmp_path: Path) -> None:
    texts = ("Why?", "long " * 60, "How?")
    messages = [(ChatMessage(role="user", content=text),) for text in texts]
    prompts = JobInput(prompts=tuple(Prompt(messages=each, samples=1) for each in messages))
    job = make_job(JobKind.FEEDBACK, 1)[0].model_copy(update={"sequences": 3})
    engine = TransformersEngine(write_tiny_model(tmp_path), None, "float32", slots=4, threads=1)
    engine.load("a@v0", None)
    [drawn], again = generate_each(engine, [requests_for(job, prompts)])
    engine.close()
    assert not isinstance(drawn, Failure) and not again
    rollouts = PromptOutput(
        prompt_token_ids=(1,),
        samples=tuple(Sample(text=text, token_ids=(), logprobs=(), finish_reason="stop") for text in texts),
    )
    told = exchanges(rollouts, output_of(job, prompts, drawn), PROBLEM, format_named("mcq"), share_identical=True)
    assert [each.verdict == FB_NONE for each in told] == [False, True, False]
    assert told[0].raw and told[2].raw and not told[1].raw
