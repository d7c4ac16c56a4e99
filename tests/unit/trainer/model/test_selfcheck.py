"""A model is tried before it is trained: refused where its log-probs are others, without trees where theirs are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from services.trainer.model.model import StudentModel
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from shared.errors import ModelError
from shared.modeling.loading import Dtype, load_model
from tests.unit.trainer.ground import SPEC

Change = Callable[..., Any]


class Wrapped(nn.Module):
    """A block of a model whose output `change` makes another one of; it is told what attention mask there is."""

    def __init__(self, block: nn.Module, change: Change) -> None:
        super().__init__()
        self.block, self.change = block, change

    def forward(self, hidden: Tensor, *args: Any, **options: Any) -> Any:
        return self.change(self.block(hidden, *args, **options), options.get("attention_mask"))


def changed(tiny_dir: Path, change: Change, dtype: Dtype = "float32") -> Any:
    network = load_model(tiny_dir, dtype)
    network.model.layers[1] = Wrapped(network.model.layers[1], change)
    return network


def before(hidden: Tensor, _mask: object) -> Tensor:
    """As a convolution does: the token that stands before a token adds to it, whatever the mask says."""
    return hidden + torch.nn.functional.pad(hidden[:, :-1], (0, 0, 1, 0))


def around(hidden: Tensor, _mask: object) -> Tensor:
    """As an encoder does: every token sees all of them."""
    return hidden + hidden.mean(1, keepdim=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_is_right_keeps_its_trees(tiny_dir: Path, dtype: Dtype) -> None:
    with capture_logs() as logs:
        model = StudentModel(TrainedAdapter(load_model(tiny_dir, dtype), SPEC, seed=1))
    assert model.packing.tree_tokens > 0
    assert not logs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trees_that_come_out_wrong_are_not_made_and_a_warning_says_so(tiny_dir: Path, dtype: Dtype) -> None:
    with capture_logs() as logs:
        model = StudentModel(TrainedModel(changed(tiny_dir, before, dtype), tiny_dir))
    assert model.packing.tree_tokens == 0
    assert "nats" in model.packing.reason
    assert [(line["log_level"], line["model_type"]) for line in logs] == [("warning", "llama")]


def test_a_model_that_takes_no_tree_at_all_goes_without(tiny_dir: Path) -> None:
    def no_mask(hidden: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and not torch.equal(mask[0, 0].diff(dim=0) < 0, torch.zeros_like(mask[0, 0, 1:]) > 0):
            raise ValueError("expected no branches")
        return hidden

    model = StudentModel(TrainedModel(changed(tiny_dir, no_mask), tiny_dir))
    assert model.packing.tree_tokens == 0
    assert "expected no branches" in model.packing.reason


def test_a_model_that_looks_ahead_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(ModelError, match="changes with the tokens after it"):
        StudentModel(TrainedModel(changed(tiny_dir, around), tiny_dir))


def test_a_model_of_numbers_that_are_none_is_refused(tiny_dir: Path) -> None:
    network = load_model(tiny_dir, "float32")
    network.get_parameter("model.norm.weight").data.fill_(float("nan"))
    with pytest.raises(ModelError, match="is no number"):
        StudentModel(TrainedModel(network, tiny_dir))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_changes_its_logits_after_the_output_layer_is_refused(tiny_dir: Path, dtype: Dtype) -> None:
    network = load_model(tiny_dir, dtype)
    inner = network.forward

    def scaled(*args: Any, **options: Any) -> Any:
        made = inner(*args, **options)
        made.logits = made.logits / 3
        return made

    network.forward = scaled
    with pytest.raises(ModelError, match="nats a token"):
        StudentModel(TrainedModel(network, tiny_dir))


def test_a_model_whose_pass_fails_is_refused_with_what_it_said(tiny_dir: Path) -> None:
    def broken(_hidden: Tensor, _mask: object) -> Tensor:
        raise RuntimeError("no kernel for this")

    with pytest.raises(ModelError, match="no kernel for this"):
        StudentModel(TrainedModel(changed(tiny_dir, broken), tiny_dir))
