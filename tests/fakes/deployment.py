"""A whole deployment, as `opcod run` starts it, whose processes can be hurt: real services and a real Redis."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from opcod.commands.run import Follower
from opcod.local.launcher import Launcher
from opcod.local.processes import Launch
from opcod.local.progress import RunProgress
from opcod.prepare.run_directory import create_run
from shared.bus.keys import BROKER, RESULTS, TRAINER, group_of, jobs, train
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.jobs import JobKind
from shared.contracts.models import PreparedModel, model_file
from shared.contracts.run import RunState, Status
from shared.contracts.weights import WeightsManifest
from tests.fakes.forked import fork
from tests.fakes.waiting import wait_until

STEPS = 2

LEASE_S = 2.0
"""Four heartbeats: who waits for the work of one that was killed waits that long."""


def scripted(*students: str) -> tuple[str, ...]:
    """Settings of students that answer from a script."""
    set_to = ("engine=scripted", "chat_template=none", "dtype=float32")
    return tuple(f"students.{student}.{setting}" for setting in set_to for student in students)


SCRIPTED = (
    *scripted("a", "b"),
    "rollout.max_tokens=100",
    "feedback.max_tokens=100",
    "evaluation.max_tokens=100",
    "feedback.tutor_timeout_s=600",
    "gate.max_break_rate=1",
    "lora.first_layer=1",
    "lora.rank=4",
    "optimizer.mini_batches=2",
    "optimizer.learning_rate=1e-2",
    f"run.steps_per_round={STEPS}",
    f"bus.lease_s={LEASE_S}",
    "bus.max_attempts=9",
    "bus.leader_lease_s=3",
    "bus.heartbeat_s=0.5",
)
"""Students that answer from a script, and trainers of a tiny model: whole runs that come out bit for bit. Nothing may
hang on the clock, so a tutor has all the time and is never silenced; a job may be begun often."""

THREE = (*scripted("c"), "students.c.domain=biology", "problems.per_step=3")
"""A student more, and its domain."""

CONTEXT = 4096
"""Tokens of the tiny model, which are bytes: every prompt fits."""


class RunningDeployment:
    """The services of a run that is created already."""

    def __init__(
        self,
        paths: Paths,
        settings: RunSettings,
        deadline_s: float,
        start_process: Launch = fork,
        rendezvous: str | None = None,
    ) -> None:
        self.paths = paths
        self.settings = settings
        self._deadline_s = deadline_s
        self.launcher = Launcher(paths, settings, "run", start_process=start_process, rendezvous=rendezvous)
        self.launcher.start(lambda _: None)
        assert self.launcher.deployment is not None
        self.bus = RedisBus(self.launcher.deployment.bus_url(), paths.run)
        progress = RunProgress(Console(quiet=True), settings.run.rounds, settings.run.steps_per_round, processes=1)
        self.follower = Follower(self.launcher, self.bus, progress, after="0")

    def state(self) -> RunState:
        text = self.bus.load_state()
        return RunState.model_validate_json(text) if text else pytest.fail("the run has no state")

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._deadline_s
        while not reached():
            assert time.monotonic() < deadline, f"not reached; the run is {self.state().status}"
            self.launcher.watch()
            time.sleep(0.1)

    def until_training(self) -> None:
        self.until(lambda: self.state().status is Status.TRAINING)

    def kill(self, name: str) -> None:
        os.kill(self.launcher.pids()[name], signal.SIGKILL)

    def finish(self) -> RunState:
        deadline = time.monotonic() + self._deadline_s
        state = self.follower.until(lambda: time.monotonic() > deadline)
        assert state is not None
        return state

    def close(self) -> None:
        self.launcher.stop()
        self.bus.close()


def scripted_settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=[*SCRIPTED, *overrides], environ={})


def write_models(paths: Paths, model: Path, students: Sequence[str] = ("a", "b")) -> None:
    """Scripted students need none, their trainers do: `model`, a directory with weights, for all."""
    for name in students:
        file = model_file(paths.run_dir, name)
        file.parent.mkdir(exist_ok=True)
        sha256 = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
        file.write_text(PreparedModel(path=model, sha256=sha256).model_dump_json())


def weights_of(run_dir: Path) -> dict[str, str]:
    """sha256 of every version's weights, by path below the run's directory."""
    files = sorted((run_dir / "weights").rglob("*.safetensors"))
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_applied_once(run_dir: Path, student: str, steps: int) -> None:
    """Versions 1 to `steps`, each from the batch of its own step and from the version before it."""
    versions = sorted((run_dir / "weights" / student).iterdir())
    assert [path.name for path in versions] == [f"v{step:06d}" for step in range(1, steps + 1)]
    for step, path in enumerate(versions, start=1):
        manifest = WeightsManifest.model_validate_json((path / "manifest.json").read_bytes())
        batch = run_dir / "batches" / student / f"s{step:05d}" / "manifest.json"
        assert (manifest.step, manifest.parent) == (step, f"{student}@v{step - 1}")
        assert manifest.batch_sha256 == hashlib.sha256(batch.read_bytes()).hexdigest()


def assert_nothing_left(bus: RedisBus, students: Sequence[str] = ("a", "b")) -> None:
    """No message waits or is in hand anywhere, once those have been read that come last, and nothing was given up."""
    queues = [(RESULTS, BROKER)]
    for student in students:
        queues.append((train(student), TRAINER))
        queues += [(queue, group_of(queue)) for queue in (jobs(student, kind) for kind in JobKind)]
    for queue, group in queues:
        wait_until(partial(_is_empty, bus, queue, group), f"{queue} to be empty")
    assert bus.dead_letters() == []


def _is_empty(bus: RedisBus, queue: str, group: str) -> bool:
    return bus.queue_depth(queue, group) == (0, 0)


class ScriptedDeployment(RunningDeployment):
    """A run of two steps of `model`'s trainers and scripted students, begun, or gone on with where it is there."""

    def __init__(
        self,
        runs_dir: Path,
        run: str,
        model: Path,
        *overrides: str,
        deadline_s: float = 200.0,
        start_process: Launch = fork,
        rendezvous: str | None = None,
    ) -> None:
        paths = Paths(runs_dir=runs_dir, run=run, cache_dir=runs_dir)
        settings = scripted_settings(*overrides)
        if not paths.run_dir.exists():
            create_run(paths, settings)
            write_models(paths, model, settings.names)
        super().__init__(paths, settings, deadline_s, start_process, rendezvous)

    def assert_done(self, weights: dict[str, str]) -> None:
        """It ends DONE with `weights`, every step applied once and nothing left behind."""
        state = self.finish()
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == dict.fromkeys(self.settings.names, STEPS)
        for student in self.settings.names:
            assert_applied_once(self.paths.run_dir, student, STEPS)
        assert weights_of(self.paths.run_dir) == weights
        assert_nothing_left(self.bus, self.settings.names)


def undisturbed_weights(runs_dir: Path, model: Path, *overrides: str, start_process: Launch = fork) -> dict[str, str]:
    """sha256 of the weights of such a run in which nothing happens."""
    running = ScriptedDeployment(runs_dir, "undisturbed", model, *overrides, start_process=start_process)
    try:
        assert running.finish().status is Status.DONE
        assert running.launcher.restarts == {}
        return weights_of(running.paths.run_dir)
    finally:
        running.close()
