"""A tiny model of every architecture that transformers has, random weights and no files: what its config.json says
is taken over and made small, windows included."""

from typing import Any

VOCABULARY = 128
CONTEXT = 256
LAYERS = 4

_HEADS = 4
_SMALL: dict[str, object] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "lru_width"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("intermediate_size", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim", "index_head_dim"), 8),
    **dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "state_size", "mamba_d_state"), 8
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k"), 2),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("n_group", "num_expert_group", "topk_group", "encoder_layers", "mamba_n_groups"), 1),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    "hidden_size_per_layer_input": 8,
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads"), 4),
    "encoder_attention_heads": _HEADS,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOWS = ("sliding_window", "attention_chunk_size", "keep_window_size", "index_topk", "attention_window_size")
_WITH_WINDOWS = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")
"""Types whose layers have a window where the configuration names one, which by default it does not."""

_OTHERWISE: dict[str, dict[str, object]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1},
}


def tiny_config(kind: str, window: int) -> Any:
    """The configuration of a model type, all of its kinds of layers in turn, with windows of `window` tokens."""
    from transformers import AutoConfig

    default = AutoConfig.for_model(kind)
    known = default.to_dict()
    small: dict[str, object] = {name: value for name, value in _SMALL.items() if known.get(name) is not None}
    small |= {name: window for name in _WINDOWS if known.get(name) or (name in known and kind in _WITH_WINDOWS)}
    small["pad_token_id"] = 0
    if "kv_lora_rank" in known:
        small["num_key_value_heads"] = _HEADS
    elif "head_dim" in known:
        small["head_dim"] = 8
    if kinds := known.get("layer_types"):
        small["layer_types"] = (list(dict.fromkeys(kinds)) * LAYERS)[:LAYERS]
    return AutoConfig.for_model(kind, **small | _OTHERWISE.get(kind, {}))


def tiny_config_of_parts(kind: str, window: int) -> Any:
    """The configuration of a type that has a text model among others, as a `text_config` in its config.json."""
    from transformers import AutoConfig

    text = AutoConfig.for_model(kind).get_text_config().model_type
    sides = {"image_size": 28, "patch_size": 14, "num_hidden_layers": 1, "num_attention_heads": _HEADS}
    # By default it has half a billion parameters.
    others = {"depth": 1, "num_heads": _HEADS, "out_hidden_size": 32}
    vision = {"gemma3": sides, "qwen3_5": others}.get(kind)
    image = {"vision_config": {"hidden_size": 32, "intermediate_size": 48, **vision}} if vision else {}
    return AutoConfig.for_model(kind, text_config=tiny_config(text, window).to_dict(), **image)


def tiny_model(config: Any, seed: int = 0) -> Any:
    """A causal language model with this configuration, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
