"""The sizes of models that are not of the Llama kind, against the models themselves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opcod.planning.memory import specialist_need, student_need, trainer_need
from opcod.planning.shapes import PLAIN_ATTENTION, ModelShape, read_shape, shape_of
from opcod.planning.work import Lengths
from shared.config.loading import load_settings
from shared.errors import ModelError
from tests.fakes.architectures import tiny_config, tiny_config_of_parts, tiny_model

LENGTHS = Lengths(mean=100, longest=300, teacher_extra=0, feedback_extra=0, problems=9, measured=True)
WITH_EXPERTS = ("qwen3_moe", "gpt_oss", "mixtral", "olmoe")


def saved(kind: str, directory: Path) -> Any:
    """A tiny model, saved in that directory."""
    model = tiny_model(tiny_config(kind, 24))
    model.save_pretrained(directory)
    return model


def shape_in(directory: Path) -> ModelShape:
    found = read_shape(directory)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", [*WITH_EXPERTS, "glm4_moe", "ernie4_5_moe", "gemma3_text", "phi3", "qwen3_next"])
def test_the_weights_that_a_model_has_are_all_counted(tmp_path: Path, kind: str) -> None:
    model = saved(kind, tmp_path)
    others = sum(each.numel() for name, each in model.named_buffers() if name in model.state_dict())
    assert shape_in(tmp_path).parameters == model.num_parameters() + others


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5"])
def test_a_text_model_among_others_is_sized_as_it_is_alone(tmp_path: Path, kind: str) -> None:
    config = tiny_config_of_parts(kind, 24)
    tiny_model(config).save_pretrained(tmp_path / "parts")
    tiny_model(config.get_text_config()).save_pretrained(tmp_path / "alone")
    (tmp_path / "parts" / "config.json").write_text(json.dumps(config.to_dict()))
    parts, alone = shape_in(tmp_path / "parts"), shape_in(tmp_path / "alone")
    assert replace(parts, counted=0) == replace(alone, counted=0)
    # Of one that is loaded whole, what sees is loaded, too.
    assert (parts.counted > alone.counted) if kind == "gemma3" else (parts.counted == alone.counted)


@pytest.mark.parametrize("names", [{"num_experts": 4}, {"num_local_experts": 4}, {"n_routed_experts": 4}])
def test_experts_without_their_files_are_of_unknown_size(names: dict[str, int]) -> None:
    config = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 9}
    config |= {"intermediate_size": 48, "num_experts_per_tok": 2}
    assert shape_of(config) is not None
    assert shape_of(config | names) is None


@pytest.mark.parametrize("kind", ["gemma3_text", "qwen3"])
@pytest.mark.parametrize("told", [True, False])
def test_whether_embeddings_are_tied_is_seen_where_it_is_not_told(tmp_path: Path, kind: str, *, told: bool) -> None:
    tied = saved(kind, tmp_path).config.tie_word_embeddings
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config.pop("tie_word_embeddings", None)
    file.write_text(json.dumps(config | ({"tie_word_embeddings": tied} if told else {})))
    found = shape_in(tmp_path)
    assert (found.tied, found.counted) == (tied, found.parameters)
    assert tied == (kind == "gemma3_text")


def test_an_output_layer_that_is_saved_beside_its_embedding_is_counted_once() -> None:
    config = {"hidden_size": 4, "num_attention_heads": 2, "vocab_size": 9, "intermediate_size": 8}
    tensors = {"embed.weight": [9, 4], "lm_head.weight": [9, 4], "norm.weight": [4]}
    shape = shape_of(config | {"num_hidden_layers": 1, "tie_word_embeddings": True}, tensors)
    assert shape is not None and shape.parameters == 9 * 4 + 4


@pytest.mark.parametrize("kind", WITH_EXPERTS)
def test_experts_have_no_adapter(tmp_path: Path, kind: str) -> None:
    from shared.modeling.adapters import LoraSpec, attach_lora

    adapted = attach_lora(saved(kind, tmp_path), LoraSpec(4, 2.0), seed=0)
    trainable = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert shape_in(tmp_path).adapter_parameters(4, 0) == trainable


@pytest.mark.parametrize(("kind", "weights"), [("gpt_oss", "adapter"), ("qwen2_moe", "adapter"), ("mixtral", "all")])
def test_activations_bound_what_autograd_keeps_of_experts(tmp_path: Path, kind: str, weights: str) -> None:
    """Against the bytes that a real forward pass saves for its backward pass."""
    import torch

    from services.trainer.model.model import StudentModel
    from services.trainer.model.trained import TrainedAdapter, TrainedModel
    from services.trainer.step.trees import Tree
    from shared.modeling.adapters import LoraSpec
    from shared.modeling.loading import load_model

    saved(kind, tmp_path)
    base = load_model(tmp_path)
    trained = TrainedModel(base, tmp_path) if weights == "all" else TrainedAdapter(base, LoraSpec(4, 2.0), 0)
    model = StudentModel(trained)
    tree, kept = Tree(), {}
    tree.insert(list(range(100)))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {each.untyped_storage().data_ptr() for each in model.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden([tree], [(0, 99)])
    found = sum(size for pointer, size in kept.items() if pointer not in own)
    bound = shape_in(tmp_path).activation_bytes(100, 0, 2, 100, dense=True)
    assert found <= bound <= 4 * found


def test_weights_of_plain_attention_take_memory_on_a_gpu_too(tmp_path: Path) -> None:
    saved("gpt_oss", tmp_path)
    plain = shape_in(tmp_path)
    fused = replace(plain, plain=False)
    for recompute, blocks in (("true", 1), ("false", plain.layers)):
        overrides = (f"trainer.recompute={recompute}", "students.a.engine=transformers", "lora.first_layer=0")
        chosen = load_settings(preset="phys-chem", overrides=overrides, environ={})
        row = LENGTHS.longest + chosen.rollout.max_tokens
        with_scores, without = (trainer_need("a", chosen, shape, LENGTHS, gpu=True).bytes for shape in (plain, fused))
        tokens = max(row, chosen.optimizer.pass_tokens)
        assert with_scores - without == (blocks + 1) * plain.score_bytes(tokens, row, 2)
        for need in (specialist_need, student_need):
            extra = {"gpu": True} if need is student_need else {}
            assert need("a", chosen, plain, LENGTHS, **extra).bytes > need("a", chosen, fused, LENGTHS, **extra).bytes


def test_what_has_plain_attention_alone_is_known() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    for kind in ("gpt_oss", "gemma2", "mimo_v2_flash", "vaultgemma", "qwen3_moe", "gemma3_text", "mixtral", "llama"):
        supported = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.for_model(kind))]._supports_sdpa
        assert supported == (kind not in PLAIN_ATTENTION), kind


def test_a_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    saved("qwen3_moe", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"expected a .*safetensors file at .*model\.safetensors"):
        read_shape(tmp_path)
