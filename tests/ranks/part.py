"""What one rank of a test does: `python -m tests.ranks.part <case> <directory> <model> [<argument> …]`.

Torch's variables (RANK and so on) say which rank it is. Rank 0 leaves what the test looks at in the directory.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from services.trainer.model.learner import Learner
from services.trainer.model.model import StudentModel
from services.trainer.model.sharded import ShardedModel, ShardedStudent, ShardedTeacher
from services.trainer.model.teacher import NoTeacher
from services.trainer.model.trained import TrainedAdapter
from services.trainer.offline.finetuning import TuningRow, finetune
from services.trainer.ranks.group import Group, RankLostError
from services.trainer.ranks.leading import Command, LeadWork, follow, told
from services.trainer.ranks.processes import Ranks
from services.trainer.step.step import StageClock, Step, StepSettings, train_step
from services.trainer.step.streaming import StreamedStep
from services.trainer.step.trees import Row
from services.trainer.trainer import StudentTrainer
from shared.config.baselines import GrpoSection, keeps_teacher
from shared.config.specializing import SpecializeSection
from shared.contracts.weights import StepMetrics
from shared.errors import ModelError
from shared.files.store import LocalStore
from shared.modeling.loading import Dtype, load_model
from tests.fakes.waiting import wait_until
from tests.unit.trainer import ground

TIMEOUT_S = 60.0
SHORT_S = 3.0

TUNING = SpecializeSection(learning_rate=1e-2, batch_size=4, epochs=3)

KINDS: dict[str, Dtype | None] = {"lora": None, "full": "float32", "rounded": "bfloat16"}
"""What is trained: an adapter, all weights, all weights of a model that computes in bf16."""

STEPS: dict[str, StepSettings] = {
    # A limit that cuts the batch into many passes, so that ranks have different numbers of them.
    "opcod": ground.settings(micro_batch_tokens=40, ema_rate=0.3, clip_norm=0.5),
    "two-updates": ground.settings(micro_batch_tokens=40, mini_batches=2, aggregation="token_mean"),
    "grpo": replace(
        ground.settings(micro_batch_tokens=40, mini_batches=2), method="grpo", grpo=GrpoSection(anchor=0.1)
    ),
    "grpo-alone": replace(ground.settings(micro_batch_tokens=40, mini_batches=2), method="grpo"),
}


def rows_for(name: str, groups: int = 5) -> list[Row]:
    """The rows of a step; of a policy gradient with advantages of both signs."""
    made = ground.rows(groups)
    return (
        [replace(row, advantage=(0.5, -0.25, 1.0)[at % 3]) for at, row in enumerate(made)]
        if name.startswith("grpo")
        else made
    )


def learner_of(group: Group, model: Path, kind: str, step: StepSettings) -> Learner:
    """What a rank of `group` trains."""
    torch.set_num_threads(1)
    full = KINDS[kind]
    if full is None:
        trained = TrainedAdapter(load_model(model, "float32"), ground.SPEC, seed=7)
        return Learner(StudentModel(trained), step.optimizer, None, group)
    student, own = (ShardedStudent(ShardedModel(load_model(model, full), model, group, "cpu")) for _ in range(2))
    kept = keeps_teacher(step.method, step.grpo)
    teacher = ShardedTeacher(student, step.optimizer.ema_rate, own) if kept else NoTeacher(student)
    return Learner(student, step.optimizer, teacher, group)


def step_made(how: str, one: Learner, rows: Sequence[Row], settings: StepSettings) -> StepMetrics:
    """A step of these rows; where it is streamed, their groups come from the last one to the first."""
    if how == "whole":
        return train_step(one, rows, settings, StageClock())
    positions = sorted({row.group for row in rows}, reverse=True)
    under_way = StreamedStep(Step(one, settings, StageClock()), len(positions))
    for position in under_way.in_turn(positions):
        under_way.add([row for row in rows if row.group == position])
    return under_way.finish()


def step(group: Ranks, directory: Path, model: Path, kind: str, name: str, groups: str, how: str) -> None:
    """Two steps on the same rows; metrics, weights and each rank's own tensors."""
    settings = STEPS[name]
    one = learner_of(group, model, kind, settings)
    rows = rows_for(name, int(groups))
    done = [step_made(how, one, rows, settings) for _ in range(2)]
    state = one.state()
    save_file(dict(state.teacher), directory / f"teacher-{group.rank}.safetensors")
    held = sum(each.numel() for each in (*state.exact.values(), *state.teacher.values(), *state.optimizer.values()))
    (directory / f"held-{group.rank}").write_text(str(held))
    if group.rank == 0:
        save_file(dict(state.published), directory / "weights.safetensors")
        (directory / "metrics.json").write_text(json.dumps([each.model_dump(exclude={"seconds"}) for each in done]))


def nan(group: Ranks, directory: Path, model: Path, kind: str) -> None:
    """A step in which rank 1 alone gets no number from its student, and one after it."""
    settings = STEPS["opcod"]
    one = learner_of(group, model, kind, settings)
    before = one.state().published
    blocks = one.model.network.get_base_model() if kind == "lora" else one.model.network
    hook = blocks.model.norm.register_forward_hook(lambda _module, _given, out: out * float("nan"))
    if group.rank == 0:
        hook.remove()
    skipped = train_step(one, rows_for("opcod"), settings, StageClock()).skipped_updates
    after = one.state().published
    hook.remove()
    again = train_step(one, rows_for("opcod"), settings, StageClock())
    same = all(torch.equal(each, after[name]) for name, each in before.items())
    told_ = {"skipped": skipped, "same": same, "again": again.skipped_updates, "in_row": one.skipped_in_row}
    (directory / f"nan-{group.rank}.json").write_text(json.dumps(told_))


def apply(group: Ranks, directory: Path, model: Path, kind: str, steps: str, name: str = "two-updates") -> None:
    """Apply sealed batches up to step `steps`, as a trainer that was started again there."""
    settings = STEPS[name]
    store = LocalStore(directory)
    checkpoints, stopping = ground.checkpoints_of(store), threading.Event()
    own = ground.rank_work(learner_of(group, model, kind, settings), model, checkpoints, settings, store)
    group.texts("ready")
    if group.rank > 0:
        follow(own, group.heard)
        return
    trainer = StudentTrainer(
        LeadWork(own, group),
        store,
        checkpoints,
        settings,
        run=ground.RUN,
        student=ground.STUDENT,
        base_model=ground.BASE_SHA256,
        stopping=stopping,
    )
    trainer.restore()
    for sealed in ground.seal_steps(directory, model, int(steps))[trainer.step :]:
        trainer.apply(sealed, ground.OpenFence())
        trainer.publish()
    with told(group, Command(name="stop")):
        pass


def still(group: Ranks, directory: Path, _model: Path, rank: str, where: str) -> None:
    """Rank `rank` stops; the other asks it something, in a step or between steps, and ends as a service would."""
    # Where no agent keeps them, rank 0 has the addresses of all: not before they have met.
    group.texts("ready")
    if group.rank == int(rank):
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        if where == "in a step":
            group.any(True)
        elif group.rank == 0:
            # The sign of life that all ranks have to answer.
            group.beat(threading.Event())
        else:
            group.heard()
    except RankLostError as error:
        (directory / "lost").write_text(str(error))
        # Not as Python ends, which would say goodbye to the other rank.
        os._exit(error.exit_code)


def tuning_rows(count: int) -> list[TuningRow]:
    """Of different lengths, so that ranks have different numbers of passes."""
    return [TuningRow((1, 2 + at), tuple(range(3, 5 + 3 * at))) for at in range(count)]


def tuning_model(model: Path) -> StudentModel:
    torch.set_num_threads(1)
    return StudentModel(TrainedAdapter(load_model(model, "float32"), ground.SPEC, seed=7))


def finetuned(group: Ranks, directory: Path, model: Path, count: str) -> None:
    """An adapter that is fine-tuned on some rows; weights and losses."""
    losses: list[float] = []
    one = tuning_model(model)
    finetune(one, tuning_rows(int(count)), TUNING, 0, lambda d: losses.append(d.loss), limit_tokens=30, group=group)
    if group.rank == 0:
        save_file(one.trained.tensors(), directory / "adapter.safetensors")
        (directory / "losses.json").write_text(json.dumps(losses))


def finetuned_nan(group: Ranks, directory: Path, model: Path) -> None:
    """Rank 1 alone gets no number."""
    one = tuning_model(model)
    if group.rank == 1:
        with torch.no_grad():
            one.trained.causal.get_parameter("model.norm.weight").fill_(float("nan"))
    try:
        finetune(one, tuning_rows(5), TUNING, 0, lambda _: None, limit_tokens=30, group=group)
    except ModelError as error:
        (directory / f"said-{group.rank}").write_text(str(error))


CASES: dict[str, Callable[..., None]] = {
    "step": step,
    "nan": nan,
    "apply": apply,
    "still": still,
    "finetune": finetuned,
    "finetune-nan": finetuned_nan,
}


def meet(directory: Path) -> None:
    """Until all ranks are there: how long each took to load decides nothing, and their timeout counts from here."""
    # Several groups may have one directory, each after the other and at a port of its own.
    marks = [directory / f"here-{os.environ['MASTER_PORT']}-{rank}" for rank in range(int(os.environ["WORLD_SIZE"]))]
    marks[int(os.environ["RANK"])].touch()
    wait_until(lambda: all(mark.exists() for mark in marks), "every rank")


if __name__ == "__main__":
    case, directory, model, *others = sys.argv[1:]
    meet(Path(directory))
    CASES[case](Ranks("cpu", SHORT_S if case == "still" else TIMEOUT_S), Path(directory), Path(model), *others)
