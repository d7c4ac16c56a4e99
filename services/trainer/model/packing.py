"""Which sequences may share a forward pass of a model: the branches of a prefix tree, and rows padded to one length.

A tree is right where a layer learns of the other tokens through nothing but the mask and the positions that it is
given. A convolution or a recurrence mixes in the tokens that stand before a token instead, a window or ALiBi counts
them: the next branch of a tree would read the one before it.

What always holds: an architecture shares only what is listed here and found right by tests/seams/test_packing.py
against rows alone; one that is not listed gets a pass for every row.
"""

from dataclasses import dataclass
from typing import Any

TREE_TOKENS = 1024
"""Beyond this many tokens a dense attention mask costs more than sharing saves; a longer row goes alone."""

_TREES = """
    afmoe apertus arcee aria_text biogpt bitnet codegen cwm deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5
    ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma3_text gemma4_text glm glm4 glm4_moe glm4_moe_lite gpt2
    gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared
    helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe llama mimo_v2_flash
    minimax_m2 ministral ministral3 mistral mixtral nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe
    qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 youtu
"""
TREES = frozenset(_TREES.split())
"""Model types that compute a prefix tree right as long as it is no longer than any window that their layers have."""

_PADDED = """
    bamba falcon falcon_h1 granitemoehybrid jamba lfm2 lfm2_moe minimax nemotron_h olmo_hybrid qwen3_5_moe_text
    qwen3_5_text qwen3_next
"""
PADDED = frozenset(_PADDED.split())
"""Model types that compute rows side by side right, but no trees: convolutions, linear attention, ALiBi by setting."""

_MASKED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_WINDOWS = ("sliding_window", "attention_chunk_size")
_ANY_LENGTH = 2**31


@dataclass(frozen=True)
class Packing:
    """tree_tokens: of the largest prefix tree, 0 for none. together_tokens: of the longest pass that several
    sequences share; in a longer one each has a pass of its own. reason: why a tree is less than TREE_TOKENS."""

    tree_tokens: int
    together_tokens: int
    reason: str = ""


def packing_of(config: Any) -> Packing:
    """What a model with this configuration (of transformers) may share."""
    kind = config.model_type
    if kind not in TREES | PADDED:
        return Packing(0, 0, f"models of type {kind} are not known to compute rows alike alone and together")
    together = _same_angles(config)
    if kind in PADDED:
        return Packing(0, together, f"models of type {kind} cannot tell the branches of a tree apart")
    if odd := set(getattr(config, "layer_types", None) or ()) - _MASKED_LAYERS:
        return Packing(0, 0, f"its layers of type {', '.join(sorted(odd))} are not known to take a mask")
    limits = {name: getattr(config, name, None) or TREE_TOKENS for name in _WINDOWS}
    limits["the length at which its rotary angles change"] = together
    name = min(limits, key=lambda each: limits[each])
    if limits[name] >= TREE_TOKENS:
        return Packing(TREE_TOKENS, together)
    return Packing(limits[name], together, f"{name} is {limits[name]}")


def _same_angles(config: Any) -> int:
    """Up to how many tokens a token's rotary angle depends on its position alone. Where it changes with the longest
    sequence of a pass, a long row would change a short one beside it."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [one for one in (parameters, *parameters.values()) if isinstance(one, dict)]
    return min(
        (
            int(one.get("original_max_position_embeddings") or config.max_position_embeddings)
            for one in each
            if one.get("rope_type") in ("longrope", "dynamic")
        ),
        default=_ANY_LENGTH,
    )
