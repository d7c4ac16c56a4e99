"""Two ranks and one: the same step, whatever is trained and however the batch is cut."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks.part import KINDS, STEPS, rows_for, step_made
from tests.ranks.started import run_ranks
from tests.unit.trainer import ground

EXACT = (1e-4, 1e-6)
"""Relative and absolute: what sums in another order do to fp32."""

ROUNDED = (0.0, 4e-3)
"""In bf16 a weight that lies between two values is rounded to either; they are 2^-8 apart below 1."""


@pytest.mark.parametrize(
    ("kind", "name", "groups", "how"),
    [
        ("lora", "two-updates", 5, "whole"),
        ("lora", "grpo", 5, "whole"),
        ("full", "opcod", 5, "whole"),
        ("full", "grpo", 5, "whole"),
        ("full", "grpo-alone", 5, "whole"),
        # One group in one pack: a rank that has nothing to do.
        ("full", "opcod", 1, "whole"),
        ("rounded", "two-updates", 5, "whole"),
        ("lora", "two-updates", 5, "streamed"),
        ("full", "opcod", 5, "streamed"),
        ("full", "grpo", 5, "streamed"),
    ],
)
def test_two_ranks_make_the_step_of_one(
    tmp_path: Path, tiny_dir: Path, kind: str, name: str, groups: int, how: str
) -> None:
    run_ranks(2, tmp_path, "step", str(tmp_path), str(tiny_dir), kind, name, str(groups), how)
    settings = STEPS[name]
    one = ground.learner(tiny_dir, settings, full=KINDS[kind])
    alone = [step_made(how, one, rows_for(name, groups), settings) for _ in range(2)]
    relative, absolute = ROUNDED if kind == "rounded" else EXACT

    for expected, found in zip(alone, json.loads((tmp_path / "metrics.json").read_text()), strict=True):
        wanted = expected.model_dump(exclude={"seconds"}, exclude_none=True)
        assert found == pytest.approx(wanted, rel=2e-2 if kind == "rounded" else 1e-4)
    state = one.state()
    weights = load_file(tmp_path / "weights.safetensors")
    assert weights.keys() == state.published.keys()
    for tensor, each in state.published.items():
        torch.testing.assert_close(weights[tensor], each, rtol=relative, atol=absolute)
    teachers = [load_file(tmp_path / f"teacher-{rank}.safetensors") for rank in range(2)]
    for tensor, each in state.teacher.items():
        # An adapter is whole on each rank, of all weights each has its rows.
        found = [teachers[0][tensor]] if kind == "lora" else [teacher[tensor] for teacher in teachers]
        torch.testing.assert_close(torch.cat(found), each, rtol=relative, atol=absolute)
    if kind != "lora":
        whole = sum(
            each.numel() for each in (*state.exact.values(), *state.teacher.values(), *state.optimizer.values())
        )
        held = [int((tmp_path / f"held-{rank}").read_text()) for rank in range(2)]
        assert max(held) < 0.55 * whole


def test_a_rank_without_a_number_keeps_all_from_the_update(tmp_path: Path, tiny_dir: Path) -> None:
    for kind in ("lora", "full"):
        run_ranks(2, tmp_path / kind, "nan", str(tmp_path / kind), str(tiny_dir), kind)
        for rank in range(2):
            found = json.loads((tmp_path / kind / f"nan-{rank}.json").read_text())
            assert found == {"skipped": 1, "same": True, "again": 0, "in_row": 0}
