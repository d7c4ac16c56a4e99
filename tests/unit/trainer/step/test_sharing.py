"""HACPO's loss against its equations, row by row in Python floats, and its gradient against autograd of an oracle."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.step.losses import batch_denominator
from services.trainer.step.sharing import Foreign, hacpo_loss, lowest_ratio, unclipped
from shared.config.baselines import HacpoSection
from shared.errors import ConfigError

torch.set_num_threads(1)

HACPO = HacpoSection()


@dataclass(frozen=True)
class RowOf:
    new: list[float]
    old: list[float]
    advantage: float
    foreign: bool
    weight: float

    @property
    def ratio(self) -> float:
        return math.exp((math.fsum(self.new) - math.fsum(self.old)) / len(self.new))

    def loss(self, update: int, alpha: float) -> float:
        ratio = self.ratio
        if not self.foreign:
            return max(-self.advantage * ratio, -self.advantage * min(max(ratio, 1 - 3e-4), 1 + 4e-4))
        clipped = min(max(ratio, min(1.0, 0.8 + 0.025 * update)), 1.0)
        return -self.advantage * self.weight * clipped * clipped**alpha

    def slope(self, update: int, alpha: float) -> float:
        """In each token's log-prob: the ratio's is ratio / length, and the power is no way to a lower loss."""
        ratio, length = self.ratio, len(self.new)
        if not self.foreign:
            held = (self.advantage > 0 and ratio > 1 + 4e-4) or (self.advantage < 0 and ratio < 1 - 3e-4)
            return 0.0 if held else -self.advantage * ratio / length
        if not min(1.0, 0.8 + 0.025 * update) <= ratio <= 1.0:
            return 0.0
        return -self.advantage * self.weight * ratio * ratio**alpha / length


@st.composite
def drawn_row(draw: st.DrawFn) -> RowOf:
    new = draw(st.lists(st.floats(-6, 0), min_size=1, max_size=5))
    shift = draw(st.one_of(st.just(0.0), st.floats(-0.4, 0.4)))
    return RowOf(
        new=new,
        old=[min(0.0, value - shift) for value in new],
        advantage=draw(st.floats(-2, 2)),
        foreign=draw(st.booleans()),
        weight=draw(st.floats(0.1, 10)),
    )


def padded(columns: list[list[float]]) -> Tensor:
    rows = [torch.tensor(column, dtype=torch.float64) for column in columns]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=math.nan)


def tensors(rows: list[RowOf]) -> tuple[Tensor, Tensor, Tensor, Foreign, Tensor]:
    new = padded([row.new for row in rows])
    return (
        new.requires_grad_(),
        padded([row.old for row in rows]),
        torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        Foreign(
            torch.tensor([row.foreign for row in rows]), torch.tensor([row.weight for row in rows], dtype=torch.float64)
        ),
        ~new.detach().isnan(),
    )


@settings(max_examples=200)
@given(st.lists(drawn_row(), min_size=1, max_size=5), st.integers(0, 9), st.floats(0, 3))
def test_value_and_gradient_are_the_equations(rows: list[RowOf], update: int, alpha: float) -> None:
    """What is padded is NaN, and reaches neither."""
    new, old, advantages, foreign, mask = tensors(rows)
    section = HACPO.model_copy(update={"alpha": alpha})
    loss = hacpo_loss(new, old, advantages, foreign, mask, torch.ones(len(rows)), section, update=update)
    wanted = math.fsum(row.loss(update, alpha) for row in rows) / len(rows)
    assert loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    (slopes,) = torch.autograd.grad(loss, new)
    for row, got in zip(rows, slopes.tolist(), strict=True):
        edges = (1.0, 1 - 3e-4, 1 + 4e-4, lowest_ratio(section, update))
        if any(abs(row.ratio - edge) < 1e-9 for edge in edges) and row.ratio != 1.0:
            continue
        expected = row.slope(update, alpha) / len(rows)
        assert got[: len(row.new)] == pytest.approx([expected] * len(row.new), rel=1e-9, abs=1e-12)
        assert got[len(row.new) :] == [0.0] * (len(got) - len(row.new))


@pytest.mark.parametrize(("update", "lowest"), [(0, 0.8), (1, 0.825), (4, 0.9), (9, 1.0)])
def test_the_lower_cut_rises_with_the_updates_of_a_step(update: int, lowest: float) -> None:
    assert lowest_ratio(HACPO, update) == pytest.approx(lowest)


@pytest.mark.parametrize(
    ("ratio", "update", "used"), [(0.81, 0, True), (0.81, 1, False), (1.0, 0, True), (1.01, 0, False), (0.7, 0, False)]
)
def test_a_foreign_rollout_outside_the_clip_has_no_gradient_and_is_counted_so(
    ratio: float, update: int, used: bool
) -> None:
    old = torch.full((1, 3), -2.0, dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    ones = torch.ones(1, 3)
    foreign = Foreign(torch.tensor([True]), torch.tensor([2.0]))
    loss = hacpo_loss(new, old, torch.tensor([0.5]), foreign, ones, torch.ones(1), HACPO, update=update)
    (slope,) = torch.autograd.grad(loss, new)
    assert bool(slope.abs().sum() > 0) is used
    assert unclipped(new, old, ones.bool(), HACPO, update).tolist() == [used]


@pytest.mark.parametrize("aggregation", ["seq_mean", "seq_mean_active", "token_mean"])
def test_micro_batches_add_up(aggregation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    new = -torch.rand(5, 3, generator=generator, dtype=torch.float64)
    old = -torch.rand(5, 3, generator=generator, dtype=torch.float64)
    tokens, samples = torch.randint(0, 2, (5, 3), generator=generator), torch.tensor([1, 1, 0, 1, 1])
    advantages = torch.randn(5, generator=generator, dtype=torch.float64)
    foreign = torch.tensor([0, 1, 1, 0, 1]).bool()
    weights = torch.rand(5, generator=generator, dtype=torch.float64)

    def part(cut: slice, denominator: float) -> Tensor:
        return hacpo_loss(
            new[cut],
            old[cut],
            advantages[cut],
            Foreign(foreign[cut], weights[cut]),
            tokens[cut],
            samples[cut],
            HACPO,
            update=0,
            aggregation=aggregation,  # type: ignore[arg-type]
            denominator=denominator,
        )

    denominator = batch_denominator(tokens, samples, aggregation)  # type: ignore[arg-type]
    pieces = [part(cut, denominator) for cut in (slice(0, 1), slice(1, 4), slice(4, 5))]
    torch.testing.assert_close(torch.stack(pieces).sum(), part(slice(0, 5), denominator))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"old_logprobs": torch.zeros(2, 2)}, r"old_logprobs must have the shape of token_mask \[2, 3\], got \[2, 2\]"),
        ({"advantages": torch.zeros(3)}, r"advantages must be one a sample, \[2\], got \[3\]"),
        (
            {"foreign": Foreign(torch.zeros(2).bool(), torch.zeros(1))},
            r"weights must be one a sample, \[2\], got \[1\]",
        ),
    ],
)
def test_unusable_arguments_are_named(changes: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "foreign": Foreign(torch.zeros(2).bool(), torch.ones(2)),
        "token_mask": torch.ones(2, 3),
        "sample_mask": torch.ones(2),
        "settings": HACPO,
        "update": 0,
    }
    with pytest.raises(ConfigError, match=said):
        hacpo_loss(**(arguments | changes))  # type: ignore[arg-type]
