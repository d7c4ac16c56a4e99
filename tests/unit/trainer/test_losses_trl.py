"""The loss against TRL's SDPOTrainer where the two agree by definition: values and gradients.

TRL's own aggregation and importance weights are called, on logits without -inf and without masked NaN, which it
does not survive. Its weights are of new against old policy, ours of trainer against engine; the formula is one.
`make check-trl` installs TRL beside the environment and runs this.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.step.losses import importance_weights
from tests.fakes.loss import self_distillation_loss

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl", reason="TRL is not installed: make check-trl runs this")
from trl.experimental.sdpo.sdpo_trainer import DistillationLogits, SDPOTrainer

torch.set_num_threads(1)

MODES = [("full_logits", None, False), ("topk_logits", 5, True), ("topk_logits", 5, False), ("topk_logits", 1, True)]


def batch(seed: int, rows: int, tokens: int, vocabulary: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def logits() -> Tensor:
        return 3 * torch.randn(rows, tokens, vocabulary, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    return {
        "student": logits(),
        "teacher": logits(),
        "ids": torch.randint(0, vocabulary, (rows, tokens), generator=generator),
        "old": -4 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64),
        "token_mask": (torch.arange(tokens)[None] < lengths[:, None]).long(),
        "sample_mask": torch.randint(0, 2, (rows,), generator=generator),
    }


def theirs(given_: dict[str, Tensor], mode: str, top_k: int | None, tail: bool, alpha: float, clip: float) -> Tensor:
    arguments = SimpleNamespace(
        distillation_mode=mode,
        distillation_topk=top_k,
        distillation_add_tail=tail,
        distillation_alpha=alpha,
        distillation_is_clip=clip,
    )
    trainer = SimpleNamespace(
        args=arguments,
        accelerator=SimpleNamespace(gather=lambda value: value),
        _log_self_distillation_metric=lambda *_: None,
    )
    mask = given_["token_mask"] * given_["sample_mask"][:, None]
    logits = DistillationLogits(
        given_["ids"], given_["token_mask"], mask.double(), given_["student"], given_["teacher"]
    )
    model = SimpleNamespace(training=True)
    loss: Tensor = SDPOTrainer._compute_self_distillation_loss(
        trainer, model, {"old_per_token_logps": given_["old"]}, logits
    )
    return loss


def ours(given_: dict[str, Tensor], top_k: int | None, tail: bool, alpha: float, clip: float) -> Tensor:
    now = given_["student"].detach().log_softmax(-1).gather(2, given_["ids"][..., None])[..., 0]
    weights = importance_weights(now, given_["old"], given_["token_mask"], clip=clip)
    return self_distillation_loss(
        given_["student"],
        given_["teacher"],
        given_["token_mask"],
        given_["sample_mask"],
        alpha=alpha,
        top_k=top_k,
        tail=tail,
        weights=weights,
        aggregation="seq_mean",
    )


@pytest.mark.parametrize(("mode", "top_k", "tail"), MODES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), tokens=st.integers(1, 5), clip=st.sampled_from([1.0, 2.0]))
def test_values_and_gradients_agree(
    mode: str, top_k: int | None, tail: bool, alpha: float, seed: int, rows: int, tokens: int, clip: float
) -> None:
    made = batch(seed, rows, tokens)
    results = []
    for loss_of in (
        lambda given_: theirs(given_, mode, top_k, tail, alpha, clip),
        lambda given_: ours(given_, top_k, tail, alpha, clip),
    ):
        student = made["student"].clone().requires_grad_()
        loss = loss_of({**made, "student": student})
        results.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    (their_loss, their_slope), (our_loss, our_slope) = results
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-6, atol=1e-9)
