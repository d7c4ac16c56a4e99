"""A tiny real model that has learned to say one thing, whatever it is asked."""

from collections.abc import Sequence
from pathlib import Path

from tests.unit.modeling.tiny_model import write_tiny_model

UPDATES = 100


def write_answering_model(directory: Path, answer: str, prompts: Sequence[Sequence[dict[str, str]]]) -> Path:
    """`write_tiny_model`, fine-tuned on `answer` after each of `prompts` until little else is likely; some seconds."""
    import torch
    from torch.nn import functional

    from shared.modeling.chat import completion_ids, render
    from shared.modeling.loading import load_model, load_tokenizer

    write_tiny_model(directory, context=1024)
    model, tokenizer = load_model(directory, "float32"), load_tokenizer(directory, None)
    said = completion_ids(tokenizer, answer)
    rows = [torch.tensor([[*render(tokenizer, prompt), *said]]) for prompt in prompts]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for update in range(UPDATES):
        row_1T = rows[update % len(rows)]
        logits_TV = model(row_1T).logits[0, -len(said) - 1 : -1]
        loss = functional.cross_entropy(logits_TV, torch.tensor(said))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(directory)
    return directory
