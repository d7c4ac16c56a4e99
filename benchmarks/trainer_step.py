"""One training step of ours beside one of TRL's SDPOTrainer, on the same rows: python benchmarks/trainer_step.py

Each side is a process of its own that loads the model once and then makes one step when it is told to; the sides
take turns. TRL's generation is left out: it is handed the same rollouts and teacher prompts. Time is that of the
whole step (forward passes, backward pass, optimizer, EMA); CPU time is the process's, for machines that do other
work meanwhile. Peak memory is the process's largest resident set during the step (VmHWM, reset before each step);
its growth is that minus the resident set before the first step. Losses agree in float32; TRL takes the divergence
in the logits' type, so in bfloat16 they do not.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median

from measured import MeasuredProcess

from shared.config.training import LossSection, OptimizerSection

CASES = ("short", "long")
SIDES = ("opcod", "trl", "trl+checkpointing")
PASSED_ON = ("dtype", "threads", "problems", "samples", "micro_rows", "micro_tokens")


@dataclass(frozen=True)
class Settings:
    """Pinned for both sides. micro_rows: rows of one forward pass in TRL, 8 by default there; micro_tokens: ours."""

    case: str
    dtype: str
    threads: int
    problems: int
    samples: int
    micro_rows: int
    micro_tokens: int
    rank: int = 16
    scale: float = 2.0
    alpha: float = 0.5
    top_k: int = 100
    ema_rate: float = 0.05
    is_clip: float = 2.0
    learning_rate: float = 1e-5
    clip_norm: float = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the base weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--micro-rows", type=int, default=8)
    parser.add_argument("--micro-tokens", type=int, default=OptimizerSection().pass_tokens)
    parser.add_argument("--trl-python", type=Path, default=Path(".venv-trl/bin/python"), help="made by make check-trl")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return serve(arguments.side, settings_of(arguments, arguments.cases[0]))
    for case in arguments.cases:
        compare(arguments, settings_of(arguments, case))
    return 0


def settings_of(arguments: argparse.Namespace, case: str) -> Settings:
    return Settings(case, **{name: getattr(arguments, name) for name in PASSED_ON})


def compare(arguments: argparse.Namespace, settings: Settings) -> None:
    """Let the sides take turns; the first step of each warms up and does not count."""
    children = {side: Child(arguments, settings, side) for side in arguments.sides}
    print(f"\n{settings.case}: {children['opcod'].said['rows'] if 'opcod' in children else ''} {asdict(settings)}")
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(arguments.repeats + 1):
        for side, child in children.items():
            result = child.step()
            if turn:
                measured[side].append(result)
    print_table(measured, {side: child.said["resident_bytes"] for side, child in children.items()})
    for child in children.values():
        child.close()


class Child(MeasuredProcess):
    """One side in its own process."""

    def __init__(self, arguments: argparse.Namespace, settings: Settings, side: str) -> None:
        # TRL is in an environment of its own, which sees our packages, too (`make check-trl`).
        python = sys.executable if side == "opcod" else str(arguments.trl_python)
        command = [python, __file__, "--side", side, "--cases", settings.case]
        for name in PASSED_ON:
            command += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
        super().__init__(command)
        self.said = self.read()

    def step(self) -> dict[str, float]:
        self.tell("step")
        return self.read()


def print_table(measured: dict[str, list[dict[str, float]]], resident: dict[str, float]) -> None:
    columns = ["side", "s a step, median (min–max)", "CPU s", "peak MiB", "growth MiB", "loss"]
    columns += [f"ours / it: {name}" for name in ("time", "CPU time", "peak", "growth")]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    names = ("seconds", "cpu_seconds", "peak_bytes")
    medians = {side: [median(r[name] for r in results) for name in names] for side, results in measured.items()}
    for side, results in measured.items():
        seconds, cpu, peak = medians[side]
        times = [r["seconds"] for r in results]
        growth = peak - resident[side]
        cells = [side, f"{seconds:.2f} ({min(times):.2f}–{max(times):.2f})", f"{cpu:.2f}", f"{peak / 2**20:.0f}"]
        cells += [f"{growth / 2**20:.0f}", f"{results[0]['loss']:.5f}"]
        if "opcod" in medians:
            ours, our_cpu, our_peak = medians["opcod"]
            ratios = (ours / seconds, our_cpu / cpu, our_peak / peak, (our_peak - resident["opcod"]) / growth)
            cells += [f"{ratio:.2f}" for ratio in ratios]
        print("| " + " | ".join(cells) + " |")


# --- in a measured process ---------------------------------------------------------------------------------------


def serve(side: str, settings: Settings) -> int:
    """Make steps for as long as stdin asks for them."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # a trainer's own prints are no answers
    import torch

    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)

    def say(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    def asked() -> bool:
        return bool(sys.stdin.readline())

    if side == "opcod":
        serve_ours(settings, asked, say)
    else:
        from trainer_step_trl import serve_trl

        serve_trl(settings, side == "trl+checkpointing", asked, say)
    return 0


def serve_ours(settings: Settings, asked: Callable[[], bool], say: Callable[..., None]) -> None:
    import time

    from services.trainer.model.learner import Learner
    from services.trainer.model.model import StudentModel
    from services.trainer.model.trained import TrainedAdapter
    from services.trainer.step.step import StageClock, StepSettings, train_step
    from shared.modeling.adapters import LoraSpec
    from shared.modeling.loading import load_model

    loss = LossSection(alpha=settings.alpha, top_k=settings.top_k, is_clip=settings.is_clip)
    optimizer = OptimizerSection(
        learning_rate=settings.learning_rate,
        warmup_updates=0,
        ema_rate=settings.ema_rate,
        clip_norm=settings.clip_norm,
        micro_batch_tokens=settings.micro_tokens,
    )
    model = load_model(model_path(), settings.dtype)
    learner = Learner(StudentModel(TrainedAdapter(model, LoraSpec(settings.rank, settings.scale), seed=0)), optimizer)
    rows = benchmark_rows(settings)
    distinct = len({(row.group, row.response) for row in rows}) / len(rows)
    tokens = sum(len(row.response) for row in rows) / len(rows)
    teacher = sum(len(row.teacher_prompt) for row in rows) / len(rows)
    shape = f"{len(rows)} rows, {tokens:.0f} response and {teacher:.0f} teacher-prompt tokens, {distinct:.0%} distinct"
    say(rows=shape, resident_bytes=memory_bytes("VmRSS"))
    while asked():
        reset_peak()
        started, used = time.perf_counter(), time.process_time()
        metrics = train_step(learner, rows, StepSettings(loss, optimizer, 1.0), StageClock())
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
        say(seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=memory_bytes("VmHWM"), loss=metrics.loss)


def model_path() -> Path:
    import os

    from shared.modeling.embedded import ensure_embedded_model

    cache = os.environ.get("OPCOD_CACHE_DIR")
    return ensure_embedded_model(Path(cache) if cache else Path.home() / ".cache" / "opcod")


def benchmark_rows(settings: Settings) -> list:  # type: ignore[type-arg]
    """Rollouts as a half-trained specialist writes them: half right, the rest wrong in various ways.

    Each rollout's self-teacher sees the right line and a feedback of its own. In the long case an answer goes
    over five lines, and the questions are put with the model's own chat template.
    """
    from services.trainer.step.trees import Row
    from shared.modeling.chat import completion_ids, render
    from shared.modeling.loading import load_tokenizer
    from shared.problems.formats import format_named
    from shared.problems.generated import KINDS, draw_partitions
    from shared.problems.mistakes import PeerFault, peer_line

    draw, tokenizer = Random(0), load_tokenizer(model_path(), "compact" if settings.case == "short" else None)
    style, others = format_named("integer"), [kind for kinds in KINDS.values() for kind in kinds]
    faults, lines = [PeerFault.NONE] * 3 + [PeerFault.FORMULA, PeerFault.ARITHMETIC, PeerFault.NUMBERS], 1
    if settings.case == "long":
        lines = 5
    rows = []
    for group, item in enumerate(draw_partitions(0)["train"][: settings.problems]):
        prompt = tuple(render(tokenizer, style.messages(item.problem)))
        for _ in range(settings.samples):
            fault = draw.choice(faults)
            text = " so ".join(peer_line(item.drawn, fault, others, draw).text for _ in range(lines))
            feedback = f"Look at the {item.drawn.kind.name} again: {fault.value}."
            teacher = style.teacher_messages(item.problem, solution=item.problem.solution, feedback=feedback)
            ids = tuple(completion_ids(tokenizer, text))
            logprobs = tuple(-draw.random() for _ in ids)
            rows.append(Row(group, prompt, tuple(render(tokenizer, teacher)), ids, logprobs, active=True))
    return rows


def reset_peak() -> None:
    """Linux: the peak resident set starts again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


if __name__ == "__main__":
    sys.exit(main())
