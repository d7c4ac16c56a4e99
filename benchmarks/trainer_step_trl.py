"""TRL's side of trainer_step.py: its SDPOTrainer with the rollouts and teacher prompts handed to it.

Only `_prepare_inputs`, which generates and scores, is replaced; forward passes, loss, backward pass, optimizer and
EMA are TRL's own. Runs in the environment of `make check-trl`.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from trainer_step import Settings, benchmark_rows, memory_bytes, model_path, reset_peak
from transformers import TrainerCallback
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from shared.modeling.loading import load_model, load_tokenizer

STEPS = 1000


def serve_trl(settings: Settings, checkpointing: bool, asked: Callable[[], bool], say: Callable[..., None]) -> None:
    rows = benchmark_rows(settings)
    parts = len(rows) // settings.micro_rows
    with tempfile.TemporaryDirectory() as directory:
        trainer = HandedRollouts(
            micro_batches(rows, settings.micro_rows),
            model=load_model(model_path(), settings.dtype),
            reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
            processing_class=load_tokenizer(model_path(), None),
            args=configuration(settings, checkpointing, parts, directory),
            train_dataset=Dataset.from_list([{"prompt": "x"}] * len(rows)),
            peft_config=LoraConfig(
                r=settings.rank,
                lora_alpha=int(settings.scale * settings.rank),
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
        trainer.add_callback(Turns(trainer, asked, say))
        say(resident_bytes=memory_bytes("VmRSS"))
        trainer.train()


def configuration(settings: Settings, checkpointing: bool, parts: int, directory: str) -> SDPOConfig:
    """What `Settings` pins, in TRL's words; the rest are TRL's defaults."""
    return SDPOConfig(
        output_dir=directory,
        per_device_train_batch_size=settings.micro_rows,
        gradient_accumulation_steps=parts,
        num_generations=settings.samples,
        steps_per_generation=parts,
        max_steps=STEPS,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=settings.clip_norm,
        distillation_mode="topk_logits",
        distillation_topk=settings.top_k,
        distillation_alpha=settings.alpha,
        distillation_add_tail=True,
        distillation_is_clip=settings.is_clip,
        distillation_weight=1.0,
        teacher_model_kind="ema",
        teacher_update_rate=settings.ema_rate,
        gradient_checkpointing=checkpointing,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


class HandedRollouts(SDPOTrainer):
    def __init__(self, batches: list[dict[str, Tensor]], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._handed = batches
        self.total = 0.0

    def _prepare_inputs(self, _: object) -> dict[str, Tensor]:
        return self._handed[self._step % len(self._handed)]

    def compute_loss(self, *arguments: Any, **options: Any) -> Tensor:
        loss: Tensor = super().compute_loss(*arguments, **options)
        self.total += float(loss.detach())
        return loss


class Turns(TrainerCallback):  # type: ignore[misc]
    """Waits for its turn before a step, and tells how the step went."""

    def __init__(self, trainer: HandedRollouts, asked: Callable[[], bool], say: Callable[..., None]) -> None:
        self._trainer, self._asked, self._say = trainer, asked, say
        self._started = self._used = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self._asked():
            raise SystemExit(0)
        reset_peak()
        self._started, self._used = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds, cpu_seconds = time.perf_counter() - self._started, time.process_time() - self._used
        self._say(seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=memory_bytes("VmHWM"), loss=self._trainer.total)
        self._trainer.total = 0.0


def micro_batches(rows: list[Any], size: int) -> list[dict[str, Tensor]]:
    """As SDPOTrainer prepares them: prompts padded on the left, responses on the right."""
    batches = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        prompt_ids, prompt_mask = padded([row.prompt for row in part], left=True)
        completion_ids, completion_mask = padded([row.response for row in part], left=False)
        teacher_ids, teacher_mask = padded([row.teacher_prompt for row in part], left=True)
        longest = completion_ids.shape[1]
        batches.append(
            {
                "prompt_ids": prompt_ids,
                "prompt_mask": prompt_mask,
                "completion_ids": completion_ids,
                "completion_mask": completion_mask,
                "teacher_input_ids": torch.cat([teacher_ids, completion_ids], dim=1),
                "teacher_attention_mask": torch.cat([teacher_mask, completion_mask], dim=1),
                "self_distillation_mask": torch.tensor([float(row.active) for row in part]),
                "old_per_token_logps": torch.tensor(
                    [[*row.logprobs, *[0.0] * (longest - len(row.logprobs))] for row in part]
                ),
            }
        )
    return batches


def padded(sequences: list[tuple[int, ...]], left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids, mask = (torch.zeros(len(sequences), longest, dtype=torch.long) for _ in range(2))
    for number, sequence in enumerate(sequences):
        where = slice(longest - len(sequence), None) if left else slice(0, len(sequence))
        ids[number, where], mask[number, where] = torch.tensor(sequence), 1
    return ids, mask
