"""Traces of the divergence: what the loss saw, by token, and never a part of it."""

from pathlib import Path

import pytest
import torch

from services.trainer.step.rows import training_rows
from services.trainer.step.step import StageClock, StepSettings, train_step
from services.trainer.step.tracing import MAX_TOKENS, Tracer, chosen_rollouts
from shared.contracts.batches import BatchGroup
from shared.contracts.traces import RolloutTrace, StepTrace, step_trace
from shared.modeling.chat import encode, render, text_pieces
from shared.modeling.loading import load_tokenizer
from shared.modeling.logprobs import token_logprobs
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import OpenFence, group_of, learner, seal_steps, settings, student_trainer

ANSWERS = ("41 wörter", "41 words", "")


def groups(directory: Path) -> list[BatchGroup]:
    tokenizer = load_tokenizer(directory, None)
    return [group_of(tokenizer, f"2+{number}?", ANSWERS) for number in range(2)]


def traced(directory: Path, step: StepSettings) -> tuple[list[RolloutTrace], float]:
    """Everything of one step, and its loss."""
    tokenizer = load_tokenizer(directory, None)
    made = groups(directory)
    rows, _ = training_rows(made, tokenizer, context_tokens=256, shorten=False)
    one = learner(directory, step)
    with torch.no_grad():
        for number, parameter in enumerate(one.model.parameters):
            parameter.add_(torch.full_like(parameter, 0.02 * (-1) ** number))
    tracer = Tracer(tokenizer, chosen_rollouts("a", 1, made, 1.0))
    metrics = train_step(one, rows, step, StageClock(), tracer=tracer)
    return list(tracer._found.values()), metrics.loss


def test_the_traced_divergence_is_the_loss(tiny_dir: Path) -> None:
    """With token_mean the loss is the mean of weight · divergence over all tokens: nothing else is in it."""
    found, loss = traced(tiny_dir, settings(aggregation="token_mean", micro_batch_tokens=40))
    tokens = [token for rollout in found for token in rollout.tokens]
    assert len(found) == 4
    assert sum(token.weight * token.divergence for token in tokens) / len(tokens) == pytest.approx(loss, rel=1e-4)
    assert loss > 1e-4


def test_log_probs_and_alternatives_are_those_of_student_and_teacher(tiny_dir: Path) -> None:
    found, _ = traced(tiny_dir, settings())
    group = groups(tiny_dir)[0]
    tokenizer = load_tokenizer(tiny_dir, None)
    one = learner(tiny_dir, settings())
    with torch.no_grad():
        teacher_prompt = render(tokenizer, group.samples[0].teacher_messages)
        taught = token_logprobs(one.model.network, [teacher_prompt], [group.samples[0].token_ids])[0].tolist()
    trace = next(each for each in found if (each.problem_id, each.sample) == (group.problem_id, 0))
    assert [token.teacher_logprob for token in trace.tokens] == pytest.approx(taught, rel=1e-3)
    assert [token.student_logprob for token in trace.tokens] != pytest.approx(taught, rel=1e-3)
    for token in trace.tokens:
        for top in (token.student_top, token.teacher_top):
            shares = [each.probability for each in top]
            assert len(top) == 5
            assert shares == sorted(shares, reverse=True)
            assert 0 < sum(shares) <= 1.001


def test_entropy_is_that_of_the_student_over_the_whole_vocabulary(tiny_dir: Path) -> None:
    found, _ = traced(tiny_dir, settings())
    group = groups(tiny_dir)[0]
    one = learner(tiny_dir, settings())
    with torch.no_grad():
        for number, parameter in enumerate(one.model.parameters):
            parameter.add_(torch.full_like(parameter, 0.02 * (-1) ** number))
        prompt, answer = render(load_tokenizer(tiny_dir, None), group.messages), group.samples[0].token_ids
        logits = one.model.network(torch.tensor([prompt + list(answer)])).logits[0, len(prompt) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits.float()).entropy().tolist()
    trace = next(each for each in found if (each.problem_id, each.sample) == (group.problem_id, 0))
    assert [token.student_entropy for token in trace.tokens] == pytest.approx(expected, rel=1e-3)
    assert len(set(expected)) > 1


def test_pieces_are_the_rollout_s_text(tiny_dir: Path) -> None:
    found, _ = traced(tiny_dir, settings())
    texts = {"".join(token.text for token in rollout.tokens) for rollout in found}
    assert texts == {"41 wörter", "41 words"}
    assert {rollout.all_tokens for rollout in found} == {10, 8}, "ö is two tokens, of which the first adds nothing"


def test_bytes_that_are_no_text_are_shown_as_such(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    ids = encode(tokenizer, "wör")
    assert text_pieces(tokenizer, ids[:2]) == ["w", "\ufffd"]
    assert text_pieces(tokenizer, []) == []


def test_tracing_changes_no_bit_of_the_weights(tmp_path: Path, tiny_dir: Path) -> None:
    """Adapter, teacher and optimizer after three steps, with everything traced and with nothing."""
    states = []
    for share in (0.0, 1.0):
        run_dir = tmp_path / f"{share}"
        trainer = student_trainer(run_dir, tiny_dir, settings(trace_share=share, mini_batches=2, ema_rate=0.1))
        trainer.restore()
        for sealed in seal_steps(run_dir, tiny_dir, 3):
            trainer.apply(sealed, OpenFence())
        states.append(trainer._work.learner.state())
        assert (run_dir / step_trace("a", 3)).exists() == bool(share)
    without, with_ = states
    for left, right in (
        (without.published, with_.published),
        (without.teacher, with_.teacher),
        (without.optimizer, with_.optimizer),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_step_leaves_its_traces_beside_its_batch(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir, settings(trace_share=1.0))
    trainer.restore()
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    trainer.apply(sealed, OpenFence())
    found = StepTrace.model_validate_json((tmp_path / "traces" / "a" / "s00001.json").read_bytes())
    assert (found.student, found.step, found.version) == ("a", 1, "a@v0")
    assert (found.batch_sha256, found.share) == (sealed.sha256, 1.0)
    assert [(each.problem_id, each.sample) for each in found.rollouts] == [
        (problem, sample) for problem in ("1+0?", "1+1?") for sample in (0, 1)
    ]
    assert trainer.done(1).metrics.seconds["trace"] > 0


def test_the_choice_follows_from_ids_and_grows_with_the_share(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    many = [group_of(tokenizer, f"{number}?", ["41"] * 10) for number in range(100)]
    chosen = {share: set(chosen_rollouts("a", 7, many, share)) for share in (0.0, 0.1, 0.5, 1.0)}
    assert chosen[0.0] == set()
    assert chosen[0.1] < chosen[0.5] < chosen[1.0]
    assert 60 < len(chosen[0.1]) < 140
    assert len(chosen[1.0]) == 1000
    assert chosen[0.1] == set(chosen_rollouts("a", 7, many, 0.1)) != set(chosen_rollouts("a", 8, many, 0.1))


def test_a_long_rollout_is_traced_to_its_bound(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "long", context=4 * MAX_TOKENS)
    tokenizer = load_tokenizer(directory, None)
    group = group_of(tokenizer, "2+2?", ["x" * (MAX_TOKENS + 50)])
    rows, _ = training_rows([group], tokenizer, context_tokens=4 * MAX_TOKENS, shorten=False)
    tracer = Tracer(tokenizer, [(0, 0)])
    train_step(learner(directory, settings()), rows, settings(), StageClock(), tracer=tracer)
    [trace] = tracer._found.values()
    assert (len(trace.tokens), trace.all_tokens) == (MAX_TOKENS, MAX_TOKENS + 50)
    assert len(trace.model_dump_json()) < 1200 * MAX_TOKENS
