"""The active model gives what a plain one with the same weights gives, packed or not, whatever was active before."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from services.student.engines import active
from services.student.engines.active import ActiveModel, PackedLinear, has_bf16_products
from shared.modeling.loading import Dtype, load_model

pytestmark = pytest.mark.model
IDS_BT = torch.tensor([[5, 6, 7, 8]])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=IDS_BT, attention_mask=torch.zeros(1, 1, 4, 4, dtype=model.dtype)).logits
    return found.float()


def changed(tiny_dir: Path, seed: int, names: list[str] | None = None, dtype: Dtype = "bfloat16") -> PreTrainedModel:
    """A plain model with other weights, all or some."""
    model = load_model(tiny_dir, dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names is None or name in names:
                parameter.copy_(parameter + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture(params=["as the processor allows", "plain"])
def model(request: pytest.FixtureRequest, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ActiveModel:
    if request.param == "plain":
        monkeypatch.setattr(active, "_packs", lambda _model: False)
    return ActiveModel(load_model(tiny_dir, "bfloat16"))


def same(one: ActiveModel, plain: PreTrainedModel) -> None:
    torch.testing.assert_close(logits(one.model), logits(plain), rtol=0, atol=2**-5)


def test_base_and_versions_in_turn(model: ActiveModel, tiny_dir: Path) -> None:
    base = load_model(tiny_dir, "bfloat16")
    first, second = changed(tiny_dir, seed=1), changed(tiny_dir, seed=2)
    assert (logits(first) - logits(base)).abs().max() > 0.3
    one, two = model.weights(parameters(first).items()), model.weights(parameters(second).items())
    for weights, plain in ((one, first), (two, second), ({}, base), (two, second), (one, first), ({}, base)):
        model.activate(weights)
        same(model, plain)


def test_weights_of_some_layers_leave_the_base_models_in_the_others(model: ActiveModel, tiny_dir: Path) -> None:
    down, up = "model.layers.1.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"
    first, second = changed(tiny_dir, 1, [down]), changed(tiny_dir, 2, [up])
    for plain, name in ((first, down), (second, up)):
        model.activate(model.weights([(name, parameters(plain)[name])]))
        same(model, plain)


def test_an_embedding_that_is_the_output_layer_too_is_exchanged_in_both(model: ActiveModel, tiny_dir: Path) -> None:
    plain = changed(tiny_dir, 3, [EMBEDDING])
    assert plain.config.tie_word_embeddings
    model.activate(model.weights([(EMBEDDING, parameters(plain)[EMBEDDING])]))
    same(model, plain)


def test_the_unchanged_model_stays_what_it_was(model: ActiveModel, tiny_dir: Path) -> None:
    model.activate(model.weights(parameters(changed(tiny_dir, seed=1)).items()))
    base = load_model(tiny_dir, "bfloat16")
    for name, parameter in model.unchanged.named_parameters():
        assert torch.equal(parameter, base.get_parameter(name))
        assert torch.equal(model.base[name], base.get_parameter(name))


def packed(model: ActiveModel) -> int:
    return sum(isinstance(each, PackedLinear) for each in model.model.modules())


needs_bf16_products = pytest.mark.skipif(not has_bf16_products(), reason="this processor computes no products in bf16")


@needs_bf16_products
def test_where_the_processor_has_bf16_products_every_linear_layer_is_packed(tiny_dir: Path) -> None:
    linear = sum(isinstance(each, nn.Linear) for each in load_model(tiny_dir).modules())
    assert packed(ActiveModel(load_model(tiny_dir, "bfloat16"))) == linear > 0
    assert packed(ActiveModel(load_model(tiny_dir, "float32"))) == 0


@needs_bf16_products
def test_a_bias_is_added_and_exchanged() -> None:
    linear = nn.Linear(32, 16).bfloat16()
    own = PackedLinear(linear.bias)
    states = torch.randn(3, 32).bfloat16()
    with torch.no_grad():
        own.packed = active._packed(linear.weight)
        torch.testing.assert_close(own(states), linear(states))
        linear.bias.data = linear.bias.data + 1
        torch.testing.assert_close(own(states), linear(states))
