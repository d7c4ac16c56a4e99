"""A number that is none (NaN, infinite) crosses from process to process as what it is, and costs what it belongs to
alone: a sample with such a log-prob is rejected and counted, and the rest of its job is trained on."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the trainer's half of the way needs torch: make setup installs it")

from services.broker.exchange.batches import StepHeader, build_group, write_batch
from services.student.engines.port import Generation
from services.student.engines.vllm.wire import Completion
from services.student.work.generation import prompt_output
from services.trainer.batches import read_batch
from services.trainer.step.rows import BAD_LOGPROBS, training_rows
from shared.bus.payloads import pack, unpack
from shared.contracts.batches import BatchSealed
from shared.contracts.diagnostics import BatchRewards
from shared.contracts.jobs import JobOutput
from shared.contracts.openai import TopLogprob
from shared.contracts.traces import Alternative
from shared.files.store import LocalStore
from shared.modeling.loading import load_tokenizer
from shared.problems.integer import IntegerFormat
from shared.problems.problem import Problem
from tests.fakes.figures import step_metrics
from tests.unit.modeling.tiny_model import write_tiny_model

HEADER = StepHeader("r1", "a", 1, 1, True, "a@v0", "b", None, "0" * 64)
NONE = [math.nan, math.inf, -math.inf]


def generation(text: str, logprob: float) -> Generation:
    return Generation(text, [5, 6], [7, 8], [-0.5, logprob], "stop", ())


@pytest.mark.parametrize("logprob", NONE)
def test_a_sample_with_a_log_prob_that_is_none_costs_itself_alone(tmp_path: Path, logprob: float) -> None:
    drawn = [generation(" u = 9 * 2 = 18", -0.25), generation(" u = 18", logprob), generation(" u = 9 + 2 = 11", -0.5)]
    job = JobOutput(job_id="r1.a.s1.p1.roll", version="a@v0", prompts=(prompt_output(drawn),))
    ref, data = pack(job, "res:a:s1", job.job_id)
    rollouts = unpack(ref, data, JobOutput).prompts[0]
    problem = Problem("p1", "physics", "voltage", "What voltage drives 9 A through 2 ohm?", "18")
    store = LocalStore(tmp_path / "run")
    group = build_group(problem, rollouts, None, IntegerFormat(), exclude_self=False)
    sealed: BatchSealed = write_batch(store, HEADER, [group]).message
    batch = read_batch(store, sealed, "r1")
    tokenizer = load_tokenizer(write_tiny_model(tmp_path / "model"), None)
    rows, events = training_rows(batch.groups, tokenizer, context_tokens=256, shorten=False)
    assert [row.active for row in rows] == [True, False, True]
    assert events == Counter({BAD_LOGPROBS: 1})
    assert rows[2].logprobs == (-0.5, -0.5)


def test_a_log_prob_that_a_vllm_server_has_not_is_none_and_its_answer_stands() -> None:
    answer = {"choices": [{"token_ids": [7, 8], "logprobs": {"token_logprobs": [-0.5, None]}}]}
    choice = Completion.model_validate_json(json.dumps(answer)).choices[0]
    assert choice.token_ids == [7, 8]
    assert choice.token_logprobs[0] == -0.5
    assert math.isnan(choice.token_logprobs[1])


@pytest.mark.parametrize("number", NONE)
def test_metrics_traces_and_state_are_read_again_with_what_was_written(number: float) -> None:
    metrics = step_metrics().model_copy(update={"loss": number, "seconds": {"student": number}})
    again = type(metrics).model_validate_json(metrics.model_dump_json())
    assert repr((again.loss, again.seconds["student"])) == repr((number, number))
    shown = Alternative(text="x", probability=number)
    assert repr(Alternative.model_validate_json(shown.model_dump_json()).probability) == repr(number)
    rewards = BatchRewards(mean=number, variance=0.25, unique_share=None)
    assert repr(BatchRewards.model_validate_json(rewards.model_dump_json()).mean) == repr(number)


@pytest.mark.parametrize("number", NONE)
def test_clients_of_openai_get_null_for_a_log_prob_that_is_none(number: float) -> None:
    assert json.loads(TopLogprob(token="x", logprob=number, bytes=(120,)).model_dump_json())["logprob"] is None
