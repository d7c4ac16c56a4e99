"""What 200 clients, 50 viewers and ten questions a second cost a run in containers; nothing of anybody's is lost.

Times decide nothing, they are printed: how long a step takes beside them and alone, in turns, and the API's answers.
OPCOD_LOAD_S says for how long, five minutes without it.
"""

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median, quantiles

import pytest

from shared.contracts.models import PreparedModel, model_file
from tests.containers.crowd import ASKS_PER_S, CLIENTS, VIEWERS, Crowd, Found
from tests.containers.project import Project
from tests.fakes.deployment import CONTEXT, SCRIPTED
from tests.unit.modeling.tiny_model import write_tiny_model

RUN = "loaded"
TURNS = 3
LOAD_S = float(os.environ.get("OPCOD_LOAD_S", "300"))
ALONE_S = max(10.0, LOAD_S / TURNS / 4)
"""Between the turns, before and after them."""

ENGINE_S = "0.1"
"""What a student's engine takes for a batch, as a stand-in for a GPU: without it a step is nothing but what people
disturb."""

LIMITS = {"requests_per_minute": 1_000_000, "concurrent_requests": 10_000}
"""One key is many people here; a question is three requests of the broker's own key to students."""

STEPS = 100_000
"""More than there is time for."""

OUR_ID = 10001
KEPT = ("students.", "rollout.", "feedback.", "evaluation.", "gate.", "lora.", "optimizer.")


def settings() -> dict[str, str]:
    """As in opcod.env: students that answer from a script, and leases as they are by themselves."""
    wanted = [setting for setting in SCRIPTED if setting.startswith(KEPT)]
    wanted += [f"serving.{name}={value}" for name, value in LIMITS.items()]
    pairs = (setting.partition("=") for setting in (*wanted, f"run.steps_per_round={STEPS}"))
    return {f"OPCOD_SET_{name.upper().replace('.', '__')}": value for name, _, value in pairs}


def test_a_crowd_beside_a_run_loses_nothing(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.set(settings(), of_students={"OPCOD_SCRIPT_LATENCY_S": ENGINE_S})
    project.choose(RUN)
    project.compose("run", "--rm", "--no-TTY", "prepare")
    give_models(project)
    project.up()
    project.until_step(2)
    crowd, found = Crowd(project.api, project.page, RUN, project.keys.strongest), Found()
    alone, beside = [step_s(project, lambda: time.sleep(ALONE_S))], []
    for _ in range(TURNS):
        beside.append(step_s(project, lambda: found.add(asyncio.run(crowd.stay(LOAD_S / TURNS)))))
        alone.append(step_s(project, lambda: time.sleep(ALONE_S)))
    with capsys.disabled():
        sys.stdout.write(figures(alone, beside, found))
    assert found.refused == [], Counter(found.refused).most_common(5)
    assert "no dead letters" in project.command("dlq", "list")
    state = project.run_state()
    assert state is not None and state.paused is None and state.failed is None, state
    project.assert_stopped_whole()


def give_models(project: Project) -> None:
    """Scripted students need none, their trainers do: a tiny one, in the volume that all see."""
    model = write_tiny_model(project.volume("cache") / "tiny", context=CONTEXT)
    sha256 = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    told = PreparedModel(path=Path("/data/cache/tiny"), sha256=sha256).model_dump_json()
    files = [model_file(project.run_dir(), student) for student in "ab"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(told)
    for path in (model, *model.iterdir(), files[0].parent, *files):
        os.chown(path, OUR_ID, OUR_ID)


def step_s(project: Project, meanwhile: Callable[[], None]) -> float:
    """How long a step of either student takes meanwhile."""
    before, began_s = steps_of(project), time.monotonic()
    meanwhile()
    return (time.monotonic() - began_s) / max(1, steps_of(project) - before)


def steps_of(project: Project) -> int:
    state = project.run_state()
    assert state is not None, "the broker does not answer"
    return sum(state.steps.values())


def figures(alone: Sequence[float], beside: Sequence[float], found: Found) -> str:
    # Against what is alone just before and just after: a machine's speed drifts.
    ratios = [here / mean(around) for here, *around in zip(beside, alone, alone[1:], strict=False)]
    lines = [
        f"{CLIENTS} clients, {VIEWERS} viewers, {ASKS_PER_S} questions a second, {LOAD_S:.0f} s in {TURNS} turns; load "
        f"average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        f"a step: {median(beside):.3f} s, alone {median(alone):.3f} s; ratio {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
        f"viewers were told {found.rows} rows; told to come back: {found.busy}; lost: {len(found.refused)}",
    ]
    for what, seconds in found.seconds.items():
        cuts = quantiles(seconds, n=100, method="inclusive")
        lines.append(f"{what}: {len(seconds)} answers, p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms")
    return "\n" + "\n".join(lines) + "\n"
