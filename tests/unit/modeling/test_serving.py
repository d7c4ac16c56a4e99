"""What an engine can serve of a model: told by its configuration and the names in its files, before anything runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, Qwen3_5ForConditionalGeneration

from shared.errors import ModelError
from shared.modeling.attention import require_plain
from shared.modeling.loading import load_model
from shared.modeling.saving import save_model
from shared.modeling.serving import require_served, served_modules
from tests.fakes.architectures import tiny_config, tiny_config_of_parts, tiny_model

pytestmark = pytest.mark.model

SLIDING = {"use_sliding_window": True, "max_window_layers": 0, "layer_types": None, "max_position_embeddings": 256}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def saved(model: Any, directory: Path) -> Path:
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def of_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Qwen3.5: transformers loads its text model alone."""
    config = tiny_config_of_parts("qwen3_5", 24)
    with torch.random.fork_rng(devices=[]):
        return saved(Qwen3_5ForConditionalGeneration(config), tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_a_plain_model_is_served_by_each_engine(tiny_dir: Path, engine: str, weights: Any) -> None:
    require_served(tiny_dir, engine, weights)


def test_a_model_whose_blocks_an_adapter_would_not_change_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    require_served(tiny_dir, "vllm", "lora", 1)
    with pytest.raises(ModelError, match=r"lora\.first_layer: expected less than 2, the model's blocks, got 15"):
        require_served(tiny_dir, "vllm", "lora", 15)
    other = saved(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=258, n_positions=16)), tmp_path)
    with pytest.raises(ModelError, match="expected linear layers in the model's blocks"):
        require_served(other, "vllm", "full", 0)


def test_the_layers_of_a_plain_model_are_found_by_their_own_names(tiny_dir: Path) -> None:
    served = served_modules(tiny_dir)
    assert len(served) == 14 and all(own == found for own, found in served.items())


def test_a_model_of_parts_is_served_by_the_names_in_its_files_and_with_adapters_alone(
    of_parts: Path, tmp_path: Path
) -> None:
    served = served_modules(of_parts)
    assert served and all(found == own.replace("model.", "model.language_model.", 1) for own, found in served.items())
    # A specialist is the text part alone, under the names of the whole.
    save_model(load_model(of_parts), tmp_path / "specialist", [of_parts])
    assert served_modules(tmp_path / "specialist") == served
    for directory in (of_parts, tmp_path / "specialist"):
        with pytest.raises(ModelError, match=r"reads versions of all weights .* model\.embed_tokens\.weight.*\"lora\""):
            require_served(directory, "vllm", "full")
        with pytest.raises(ModelError, match="runs models of type"):
            require_served(directory, "transformers", "lora")


@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe", "mixtral", "qwen3_next"])
def test_experts_that_are_one_tensor_in_memory_have_adapters_beside_them_and_are_no_version(
    tmp_path: Path, kind: str
) -> None:
    directory = saved(tiny_model(tiny_config(kind, 24)), tmp_path / kind)
    require_served(directory, "vllm", "lora")
    with pytest.raises(ModelError, match=r"experts\.down_proj.*set run\.weights = \"lora\""):
        require_served(directory, "vllm", "full")


def test_layers_that_vllm_would_look_for_under_other_names_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = shutil.copytree(tiny_dir, tmp_path / "renamed")
    tensors = load_file(directory / "model.safetensors")
    renamed = {name.replace("model.layers", "language_model.model.layers"): one for name, one in tensors.items()}
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"expected model\.layers\.0\.\S+ in .*, found other names: choose another"):
        require_served(directory, "vllm", "lora")


def test_a_file_may_leave_out_the_prefix_of_the_body(tiny_dir: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_dir, trust_remote_code=False)
    directory = saved(model.model, tmp_path / "body")
    for weights in ("lora", "full"):
        require_served(directory, "vllm", weights)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("llama", {}, None),
        ("qwen3", {"use_sliding_window": False}, None),
        ("qwen3", {**SLIDING, "sliding_window": 8}, "got sliding_attention, which see 8 of 256 tokens"),
        ("qwen2", {**SLIDING, "sliding_window": 255}, "which see 255 of 256 tokens"),
        ("qwen2", {**SLIDING, "sliding_window": 256}, None),
        (
            "smollm3",
            {**SLIDING, "sliding_window": 8, "layer_types": ["sliding_attention"] * 4},
            "got sliding_attention",
        ),
        ("llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 64}}, "change at 64 tokens"),
        ("llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 256}}, None),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, None),
        ("mistral", {}, "runs models of type llama, qwen2, qwen3, smollm3, got mistral"),
    ],
)
def test_the_transformers_engine_takes_models_whose_every_layer_sees_the_whole_row(
    kind: str, changes: dict[str, Any], said: str | None
) -> None:
    small = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}
    config = AutoConfig.for_model(kind, **{**small, "rope_theta": 1e4, **changes})
    if said is None:
        require_plain(config)
        return
    with pytest.raises(ModelError, match=f"{said}.*: serve this model with another engine"):
        require_plain(config)
