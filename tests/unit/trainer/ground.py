"""A tiny model, rows and sealed batches to train on, and a trainer around them."""

import hashlib
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from services.trainer.checkpoint import Checkpoints
from services.trainer.model.learner import Learner
from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import EmaTeacher, NoTeacher
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from services.trainer.step.step import StepSettings
from services.trainer.step.trees import Row
from services.trainer.trainer import StudentTrainer
from services.trainer.work import RankWork
from shared.bus.keys import step_payloads
from shared.bus.payloads import pack
from shared.config.baselines import keeps_teacher
from shared.config.training import LossSection, OptimizerSection
from shared.contracts.batches import AddedGroup, BatchGroup, BatchManifest, BatchSample, BatchSealed, GroupSealed
from shared.contracts.ids import version_name
from shared.contracts.messages import ChatMessage
from shared.files.store import LocalStore
from shared.modeling.adapters import LoraSpec
from shared.modeling.chat import encode, render
from shared.modeling.loading import Dtype, load_model, load_tokenizer

RUN = "r1"
STUDENT = "a"
BASE_SHA256 = "b" * 64
SPEC = LoraSpec(rank=4, alpha_scale=2.0)


def settings(**changes: object) -> StepSettings:
    """Defaults of the paper, a learning rate that a tiny model notices, no warm-up. Loss and optimizer keys mix."""
    loss = {key: value for key, value in changes.items() if key in LossSection.model_fields}
    optimizer = {key: value for key, value in changes.items() if key in OptimizerSection.model_fields}
    assert len(loss) + len(optimizer) == len(changes)
    base = {"learning_rate": 1e-2, "warmup_updates": 0}
    return StepSettings(
        LossSection.model_validate(loss), OptimizerSection.model_validate(base | optimizer), temperature=1.0
    )


def learner(
    directory: Path,
    step: StepSettings,
    *,
    full: Dtype | None = None,
    adapter: Dtype = "float32",
    recompute: bool = False,
    device: str = "cpu",
) -> Learner:
    """full: train all weights, of a model that computes in this type; else an adapter, with a model of its type."""
    torch.set_num_threads(1)
    base = load_model(directory, full or adapter, device)
    trained = TrainedModel(base, directory) if full else TrainedAdapter(base, replace(SPEC, dtype=adapter), seed=7)
    model = StudentModel(trained, recompute=recompute)
    return Learner(model, step.optimizer, teacher_of(model, step))


def teacher_of(model: StudentModel, step: StepSettings) -> EmaTeacher:
    """As a trainer of a run has it."""
    kept = keeps_teacher(step.method, step.grpo)
    return EmaTeacher(model, step.optimizer.ema_rate) if kept else NoTeacher(model)


def rows(groups: int = 3, samples: int = 4, seed: int = 0) -> list[Row]:
    """Groups with a shared prompt; some responses equal, some sharing a prefix; the second row of each inactive."""
    draw = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(200) for _ in range(count))

    made: list[Row] = []
    for group in range(groups):
        prompt, start = ids(5 + group), ids(2)
        for sample in range(samples):
            response = made[-1].response if sample == samples - 1 else start + ids(1 + sample)
            made.append(
                Row(
                    group=group,
                    prompt=prompt,
                    teacher_prompt=prompt[:3] + ids(4 + sample % 2),
                    response=response,
                    logprobs=tuple(-5.0 - draw.random() for _ in response),
                    active=sample != 1,
                )
            )
    return made


def group_of(tokenizer: object, problem: str, answers: Sequence[str], shown: str = "41") -> BatchGroup:
    """A group whose samples answer `answers`; the teacher is shown `shown`. An empty answer is masked out."""
    question = [ChatMessage(role="user", content=problem)]
    teacher = [ChatMessage(role="user", content=f"{problem} Solved: {shown}")]
    samples = []
    for index, answer in enumerate(answers):
        ids = tuple(encode(tokenizer, answer or "none"))
        samples.append(
            BatchSample(
                index=index,
                text=answer,
                token_ids=ids,
                logprobs=tuple(-math.log(258) for _ in ids),
                finish_reason="stop",
                reward=0.0,
                demonstration=0,
                verdict=None,
                feedback_raw=None,
                feedback=None,
                teacher_messages=tuple(teacher if answer else question),
                mask=int(bool(answer)),
            )
        )
    return BatchGroup(
        problem_id=problem,
        domain="physics",
        kind="k",
        question=problem,
        messages=tuple(question),
        prompt_token_ids=tuple(render(tokenizer, question)),
        samples=tuple(samples),
    )


def seal(run_dir: Path, groups: Sequence[BatchGroup], step: int, **changes: object) -> BatchSealed:
    """Write a sealed batch and return its message."""
    lines = "".join(group.model_dump_json() + "\n" for group in groups).encode()
    samples = [sample for group in groups for sample in group.samples]
    fields: dict[str, object] = {
        "run": RUN,
        "student": STUDENT,
        "round": 1,
        "step": step,
        "phase_start": step == 1,
        "base_version": version_name(STUDENT, step - 1),
        "tutor": "b",
        "tutor_version": None,
        "template_hash": "t",
        "groups": len(groups),
        "samples": len(samples),
        "active_samples": sum(sample.mask for sample in samples),
        "kept_feedback": 0,
        "mean_reward": 0.0,
        "reward_variance": 0.25,
        "unique_share": None,
        "verdicts": {},
        "groups_sha256": hashlib.sha256(lines).hexdigest(),
    }
    manifest = BatchManifest.model_validate(fields | changes)
    uri = f"batches/{STUDENT}/s{step:05d}"
    sha256 = LocalStore(run_dir).write_directory(uri, {"groups.jsonl": lines}, manifest.model_dump_json().encode())
    return BatchSealed(student=STUDENT, step=step, uri=uri, sha256=sha256, base_version=version_name(STUDENT, step - 1))


def seal_steps(run_dir: Path, directory: Path, count: int) -> list[BatchSealed]:
    """Batches of steps 1 to `count`, each with other answers."""
    tokenizer = load_tokenizer(directory, None)
    return [
        seal(run_dir, [group_of(tokenizer, f"{step}+{g}?", ["41", f"{step}{g}", ""]) for g in range(2)], step)
        for step in range(1, count + 1)
    ]


Ahead = tuple[GroupSealed, bytes]
"""A group that is sealed before its batch, and its payload."""


def seal_streamed(
    run_dir: Path, directory: Path, step: int, order: Sequence[int], **changes: object
) -> tuple[BatchSealed, list[Ahead]]:
    """A batch that says in which order its groups are added up, and these groups as they are sealed ahead of it."""
    tokenizer = load_tokenizer(directory, None)
    groups = [group_of(tokenizer, f"{step}+{at}?", ["41", f"{step}{at}", ""]) for at in range(len(order))]
    ahead = [sealed_ahead(groups[position], step, position, len(order)) for position in order]
    return seal(run_dir, groups, step, order=tuple(sealed.group for sealed, _ in ahead), **changes), ahead


def sealed_ahead(group: BatchGroup, step: int, position: int, groups: int) -> Ahead:
    added = AddedGroup(problem_id=group.problem_id, sha256=hashlib.sha256(group.model_dump_json().encode()).hexdigest())
    ref, data = pack(group, step_payloads(STUDENT, step), f"{group.problem_id}.{added.sha256[:16]}")
    sealed = GroupSealed(
        student=STUDENT,
        step=step,
        base_version=version_name(STUDENT, step - 1),
        phase_start=step == 1,
        position=position,
        groups=groups,
        group=added,
        payload=ref,
    )
    return sealed, data


def student_trainer(
    run_dir: Path,
    directory: Path,
    step: StepSettings | None = None,
    store: LocalStore | None = None,
    *,
    full: Dtype | None = None,
    adapter: Dtype = "float32",
) -> StudentTrainer:
    """A trainer as a fresh process would have it, before `restore`."""
    step = step or settings()
    store = store or LocalStore(run_dir)
    stopping = threading.Event()
    stopping.set()  # no pauses between tries
    checkpoints = checkpoints_of(store)
    work = rank_work(learner(directory, step, full=full, adapter=adapter), directory, checkpoints, step, store)
    return StudentTrainer(
        work, store, checkpoints, step, run=RUN, student=STUDENT, base_model=BASE_SHA256, stopping=stopping
    )


def rank_work(
    made: Learner, directory: Path, checkpoints: Checkpoints, step: StepSettings, store: LocalStore, *, run: str = RUN
) -> RankWork:
    """What a rank does with that learner, of batches in `store`."""
    tokenizer = load_tokenizer(directory, None)
    return RankWork(made, tokenizer, store, checkpoints, step, run=run, shorten_prompts=False)


def checkpoints_of(store: LocalStore, base_sha256: str = BASE_SHA256) -> Checkpoints:
    return Checkpoints(store, run=RUN, student=STUDENT, base_sha256=base_sha256)


class OpenFence:
    """The right to write, never taken away."""

    def __init__(self, token: int = 1) -> None:
        self.token = token

    def check(self) -> None:
        pass

    def confirm(self) -> None:
        pass
