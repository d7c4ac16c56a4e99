"""Training rows: which samples take part, and how groups are dealt out."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.step.rows import (
    BAD_LOGPROBS,
    EMPTY,
    PEER_TOO_LONG,
    REFUSED,
    TOO_LONG,
    Pair,
    mini_batches,
    training_rows,
)
from services.trainer.step.trees import Row
from shared.contracts.batches import PeerSample
from shared.contracts.messages import ChatMessage
from shared.method.reprompt import FitEvent, teacher_messages
from shared.method.sharing import shared_advantages
from shared.modeling.chat import encode, render
from shared.modeling.loading import load_tokenizer
from tests.unit.trainer.ground import group_of


def test_ids_are_those_that_were_sampled_and_masked_samples_stay_as_inactive_rows(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    group = group_of(tokenizer, "2+2?", ["4", "", "5"])
    odd = group.samples[0].model_copy(update={"token_ids": (52, 257), "logprobs": (-1.0, -2.0)})
    group = group.model_copy(update={"samples": (odd, *group.samples[1:])})
    made, events = training_rows([group], tokenizer, context_tokens=256, shorten=False)
    assert [row.active for row in made] == [True, False, True]
    assert made[0].response == (52, 257)
    assert made[0].prompt == group.prompt_token_ids
    assert made[0].teacher_prompt == tuple(render(tokenizer, odd.teacher_messages))
    assert not events


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logprobs": (float("nan"),)}, BAD_LOGPROBS),
        ({"logprobs": (float("-inf"),)}, BAD_LOGPROBS),
        ({"logprobs": (0.5,)}, BAD_LOGPROBS),
        ({"logprobs": ()}, BAD_LOGPROBS),
        ({"token_ids": (), "logprobs": ()}, EMPTY),
        ({"teacher_messages": (ChatMessage(role="user", content="x" * 250),)}, TOO_LONG),
    ],
)
def test_a_sample_that_cannot_be_trained_on_is_counted(tiny_dir: Path, changes: dict[str, object], reason: str) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    group = group_of(tokenizer, "2+2?", ["4", "5"])
    bad = group.samples[0].model_copy(update=changes)
    group = group.model_copy(update={"samples": (bad, group.samples[1])})
    made, events = training_rows([group], tokenizer, context_tokens=256, shorten=False)
    assert [row.active for row in made] == [False, True]
    assert events == Counter({reason: 1})


def test_a_long_teacher_prompt_is_shortened_where_its_template_can_be(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    group = group_of(tokenizer, "2+2?", ["s" * 400, "5"])
    prompt = [message.model_dump() for message in group.messages]
    told = teacher_messages(prompt, solution="s" * 400, feedback=None)
    samples = tuple(
        sample.model_copy(update={"teacher_messages": tuple(ChatMessage.model_validate(m) for m in told)})
        for sample in group.samples
    )
    group = group.model_copy(update={"samples": samples})
    made, events = training_rows([group], tokenizer, context_tokens=400, shorten=True)
    assert [row.active for row in made] == [False, True]  # the first response alone fills the context
    assert len(made[1].teacher_prompt) + len(made[1].response) <= 400
    assert events[FitEvent.SOLUTION_SHORTENED.value] == 1


@pytest.mark.parametrize("shorten", [False, True])
def test_a_teacher_prompt_that_the_tokenizer_refuses_costs_its_sample_alone(tiny_dir: Path, shorten: bool) -> None:
    """As of a peer's feedback with characters for which the student's tokenizer has a special token alone."""
    tokenizer = load_tokenizer(tiny_dir, None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["§"]})  # of one character it cannot be broken up
    group = group_of(tokenizer, "2+2?", ["4", "5"])
    told = ChatMessage(role="user", content=f"2+2? Feedback: look at § 4 {'x' * 300}")
    group = group.model_copy(
        update={"samples": (group.samples[0].model_copy(update={"teacher_messages": (told,)}), group.samples[1])}
    )
    made, events = training_rows([group], tokenizer, context_tokens=256, shorten=shorten)
    assert [row.active for row in made] == [False, True]
    assert events == Counter({REFUSED: 1})


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 10))
def test_mini_batches_are_whole_groups_in_order(sizes: list[int], count: int) -> None:
    made = [Row(group, (1,), (1,), (1,), (-1.0,), True) for group, size in enumerate(sizes) for _ in range(size)]
    parts = mini_batches(made, count)
    assert len(parts) == min(count, len(sizes))
    assert sorted(row.group for part in parts for row in part) == [row.group for row in made]
    for group in range(len(sizes)):
        assert sum(any(row.group == group for row in part) for part in parts) == 1
    for part in parts:
        assert [row.group for row in part] == sorted(row.group for row in part)


def test_a_batch_sorted_by_domain_gives_mini_batches_of_both() -> None:
    made = [Row(group, (1,), (1,), (1,), (-1.0,), True) for group in range(4)]
    assert [[row.group for row in part] for part in mini_batches(made, 2)] == [[0, 2], [1, 3]]


def peer_sample(text: str, **changes: object) -> PeerSample:
    """As the peer drew it, in three tokens of its own and the one that ended it."""
    fields: dict[str, object] = {
        "index": 0,
        "text": text,
        "logprobs": (-1.0, -2.0, -3.0, -9.0),
        "finish_reason": "stop",
        "reward": 1.0,
        "mask": 1,
    }
    return PeerSample.model_validate(fields | changes)


def shared_group(tiny_dir: Path, *peers: PeerSample) -> tuple[list[Row], Counter[str]]:
    tokenizer = load_tokenizer(tiny_dir, None)
    group = group_of(tokenizer, "2+2?", ["5", "6"]).model_copy(update={"peer_samples": peers})
    return training_rows([group], tokenizer, context_tokens=256, shorten=False, pair=Pair(learner=0.25, peer=0.5))


def test_a_peer_s_rollout_is_its_text_in_the_learner_s_tokens(tiny_dir: Path) -> None:
    """Without what ended it, which stands in no text, and with its author's mean log-prob at every token."""
    tokenizer = load_tokenizer(tiny_dir, None)
    made, events = shared_group(tiny_dir, peer_sample("2+2=4"), peer_sample("is 4", finish_reason="length", index=1))
    assert [row.foreign for row in made] == [False, False, True, True]
    assert made[2].response == tuple(encode(tokenizer, "2+2=4"))
    assert set(made[2].logprobs) == {-2.0}
    assert set(made[3].logprobs) == {-3.75}, "cut at the token limit, nothing ended it"
    assert len(made[3].logprobs) == len(made[3].response)
    assert {row.prompt for row in made} == {made[0].prompt} == {made[2].teacher_prompt}
    assert [row.weight for row in made] == [1.0, 1.0, 2.0, 2.0]
    assert not events


def test_advantages_are_of_both_students_rollouts_together(tiny_dir: Path) -> None:
    made, _ = shared_group(tiny_dir, peer_sample("4"), peer_sample("8", reward=0.0))
    own, foreign = shared_advantages([0.0, 0.0], [1.0, 0.0], ratio=2.0)
    assert [row.advantage for row in made] == [*own, *foreign]
    assert made[2].advantage > 0 > made[3].advantage


def test_a_special_token_spelt_out_by_the_peer_stays_text(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    made, _ = shared_group(tiny_dir, peer_sample(f"4{tokenizer.eos_token}"))
    assert tokenizer.eos_token_id not in made[2].response


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (peer_sample(""), EMPTY),
        (peer_sample("4", logprobs=(-1.0,)), EMPTY),
        (peer_sample("4", logprobs=(float("nan"), -1.0)), BAD_LOGPROBS),
        (peer_sample("4" * 300), PEER_TOO_LONG),
    ],
)
def test_a_peer_s_rollout_that_cannot_be_trained_on_is_counted(tiny_dir: Path, sample: PeerSample, reason: str) -> None:
    made, events = shared_group(tiny_dir, sample)
    assert [row.active for row in made] == [True, True, False]
    assert events == Counter({reason: 1})
    assert not shared_group(tiny_dir, sample.model_copy(update={"mask": 0}))[1], "masked, it was not to be trained on"
