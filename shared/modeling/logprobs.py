"""Log-probs that a model gives to token ids it is shown, as the engine reports them for ids it sampled.

Always in fp32, over the whole vocabulary, at the sampling temperature.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shared.modeling.chat import encode

PROBE_TEXTS = (
    "The voltage across a resistor is the product of the current and the resistance.",
    "Water is a molecule of two hydrogen atoms and one oxygen atom.",
    "def add(a, b):\n    return a + b\n",
)


def token_logprobs(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    response_ids: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> Tensor:
    """Return log-probs [B, T] of each response token after its prompt, T the longest response, 0 where padded.

    Prompts (which must not be empty) are padded on the left and responses on the right; logits are made at response
    positions only. Gradients flow unless the caller turns them off. Temperature 0 counts as 1.
    """
    ids_BS, mask_BS = _padded(prompt_ids, response_ids)
    longest = max(len(response) for response in response_ids)
    device = model.device
    # Padding on the left is no part of the text: positions count from its first token.
    positions_BS = (mask_BS.cumsum(1) - 1).clamp_(min=0)
    output = model(
        input_ids=ids_BS.to(device),
        attention_mask=mask_BS.to(device),
        position_ids=positions_BS.to(device),
        use_cache=False,
        # One more than the answer has: each position predicts the next token, and the last prediction is dropped.
        logits_to_keep=longest + 1,
    )
    logits_BTV: Tensor = output.logits[:, :-1].float() / (temperature or 1.0)
    targets_BT = ids_BS[:, -longest:].to(device)
    # Not log_softmax, which would make another tensor of the vocabulary's size.
    chosen_BT = logits_BTV.gather(2, targets_BT[..., None])[..., 0] - logits_BTV.logsumexp(2)
    padding_BT: Tensor = mask_BS[:, -longest:].to(device) == 0
    return chosen_BT.masked_fill(padding_BT, 0.0)


def probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """Return the mean log-prob a token of three fixed texts; other weights move it by > 1, bf16 noise by < 0.1."""
    sequences = [encode(tokenizer, text) for text in PROBE_TEXTS]
    prompts, responses = [ids[:1] for ids in sequences], [ids[1:] for ids in sequences]
    with torch.no_grad():
        logprobs_BT = token_logprobs(model, prompts, responses)
    lengths_B = torch.tensor([len(response) for response in responses], device=logprobs_BT.device)
    means: list[float] = (logprobs_BT.sum(1) / lengths_B).tolist()
    return means


def _padded(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, S]; the padding id is 0, which the mask hides."""
    before = max(len(prompt) for prompt in prompts)
    after = max(len(response) for response in responses)
    ids_BS = torch.zeros(len(prompts), before + after, dtype=torch.long)
    mask_BS = torch.zeros_like(ids_BS)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start, end = before - len(prompt), before + len(response)
        ids_BS[row, start:end] = torch.tensor([*prompt, *response])
        mask_BS[row, start:end] = 1
    return ids_BS, mask_BS
