"""What a step of the paper's size costs beside its GPUs: python -m benchmarks.paper_size [--replicas 32] [--students 8]

Broker, Redis, files, replicas and the trainers' consumers are the real ones, in processes of their own; what is
simulated is the GPUs, which are waited for. Each student answers 32 problems with 8 answers of 4,096 tokens and their
log-probs, each of which gets feedback; answers come with a long tail, and a step takes about `--step-s`. Shares are of
120 s, whatever a step took. Processor time is counted from the first rollout that is asked for to the last step.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.paper_size_engine import CONCEPT
from benchmarks.paper_size_figures import LoopProbe, Sampler, clocked, commands_between, idle_figures, spread
from benchmarks.paper_size_parts import ASKED, LEASE_S, RUN
from shared.bus.keys import trainer_lease
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings, to_toml
from shared.config.settings import RunSettings
from shared.contracts.batches import BatchManifest
from shared.contracts.run import RunState, Status
from shared.errors import UnavailableError
from shared.files.batches import batch_directory
from shared.files.store import GROUPS, MANIFEST
from shared.parents import PARENT_VARIABLE
from tests.fakes.sciknoweval import row, write
from tests.fakes.valkey import free_port

PARTS = Path(__file__).with_name("paper_size_parts.py")
PAPER_STEP_S = 120.0
DOMAINS = ("physics", "chemistry", "biology", "materials")
ROWS = 80
PER_PROCESS = 128
"""Replicas in one process: a thread each."""

DEADLINE_S = 3600.0
POLL_S = 0.5


def settings_for(given: argparse.Namespace, problems: Path) -> RunSettings:
    names = [chr(ord("a") + at) for at in range(given.students)]
    overrides = [f"problems.source=sciknoweval:{problems}", f"problems.per_step={given.problems}"]
    overrides += ["run.rounds=1", f"run.steps_per_round={given.steps}", "gate.mode=always", "gate.max_break_rate=1"]
    overrides += ["evaluation.validation_problems=6", "evaluation.validation_samples=4", "evaluation.test_problems=1"]
    overrides += ["evaluation.test_samples=1", "problems.validation_per_domain=6", "feedback.tutor_timeout_s=3600"]
    overrides += [f"rollout.samples={given.samples}", f"rollout.max_tokens={given.tokens}"]
    overrides += [f"evaluation.max_tokens={given.tokens}", f"feedback.max_tokens={given.feedback_tokens}"]
    # Processes that others keep from the processor must not be taken for dead.
    overrides += ["bus.leader_lease_s=300", "bus.deadline_s=60", "bus.lease_s=300"]
    overrides += [f"run.stream={str(given.stream).lower()}"]
    for at, name in enumerate(names):
        student = f"students.{name}"
        overrides += [f"{student}.domain={DOMAINS[at % len(DOMAINS)]}", f"{student}.engine=scripted"]
        overrides += [f"{student}.specialize=false", f"{student}.slots=128", f"{student}.replicas={given.replicas}"]
    return load_settings(preset="phys-chem", overrides=overrides, environ={})


def write_problems(directory: Path, rows: int) -> None:
    for domain in DOMAINS:
        made = [
            row(
                at,
                f"A {CONCEPT}, item {at} of {domain}, is cooled slowly in a field that turns with period {at + 3}: "
                "which of the following statements describes its state once it has come to rest?",
                [f"{domain} statement {at} {number}" for number in range(4)],
                "ABCD"[at % 4],
            )
            for at in range(rows + 4)
        ]
        write(directory, domain, made[:rows], made[rows:])


class Processes:
    """Of one measurement; all of them end with it, in the order in which they were started."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        log = (self._run_dir / f"{len(self._started)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                env=os.environ
                | {"PYTHONPATH": str(Path(__file__).parents[1]), PARENT_VARIABLE: str(os.getpid())}
                | environment,
            )
        self._started.append(process)
        return process

    def part(self, part: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start(str(PARTS), part, "--run-dir", str(self._run_dir), *arguments, **environment)

    def check(self) -> None:
        for number, process in enumerate(self._started):
            if process.poll() is not None:
                log = (self._run_dir / f"{number}.log").read_text()[-2000:]
                raise SystemExit(f"{process.args!r} ended with {process.returncode}:\n{log}")

    def end(self) -> None:
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running(given: argparse.Namespace, run_dir: Path) -> Iterator[tuple[RunSettings, RedisBus, int, str, Processes]]:
    """Settings, bus, the broker's process id, its URL, and all processes; students begin last."""
    write_problems(run_dir / "problems", max(ROWS, given.problems))
    settings = settings_for(given, run_dir / "problems")
    (run_dir / "config.toml").write_text(to_toml(settings))
    port, waits = free_port(), ["--step-s", str(given.step_s)]
    url, processes = f"redis://127.0.0.1:{port}", Processes(run_dir)
    try:
        processes.start("-m", "opcod.local.embedded_redis", "--port", str(port), "--data-dir", str(run_dir / "redis"))
        bus = RedisBus(url, RUN, lease_s=LEASE_S)
        _until(lambda: _answers(bus), "Redis", processes)
        told = {
            "OPCOD_RUN": RUN,
            "OPCOD_RUN_DIR": str(run_dir),
            "OPCOD_CACHE_DIR": str(run_dir),
            "OPCOD_REDIS_URL": url,
        }
        url_file = run_dir / "broker.url"
        broker = processes.part("broker", **told, OPCOD_URL_FILE=str(url_file))
        _until(lambda: url_file.exists() and url_file.read_text() != "", "the broker", processes)
        processes.part("trainers", "--url", url, *waits, "--students", *settings.names)
        # Ready first: a step that waits for a trainer to start would say nothing.
        leases = [bus.keys.lease(trainer_lease(name)) for name in settings.names]
        _until(lambda: bus.link.client.exists(*leases) == len(leases), "the trainers", processes)
        waits += ["--url", url, "--nice", str(given.nice)]
        for name in settings.names:
            for first in range(0, given.replicas, PER_PROCESS):
                count = str(min(PER_PROCESS, given.replicas - first))
                processes.part("students", "--first", str(first), "--count", count, *waits, "--students", name)
        yield settings, bus, broker.pid, url_file.read_text(), processes
        bus.close()
    finally:
        processes.end()


def _answers(bus: RedisBus) -> bool:
    with contextlib.suppress(UnavailableError):
        bus.ping()
        return True
    return False


def _until(reached: Callable[[], bool], what: str, processes: Processes) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        processes.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(POLL_S)


def measure(given: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    """All figures, times in seconds; `shares` are of a step of 120 s."""
    with running(given, run_dir) as (settings, bus, broker, url, processes):
        sampler = Sampler(bus, broker)
        sampler.start()
        with LoopProbe(url) as probe:
            _until(lambda: _stands(bus) or _steps(bus) >= given.steps, "the steps", processes)
        ended = time.time()
        _until(lambda: _stands(bus) or _loaded(bus).status is Status.DONE, "the end", processes)
        if _stands(bus):
            raise SystemExit(f"the run stands: {_loaded(bus).paused}")
        state = _loaded(bus)
        idle = idle_figures(sampler, given.idle_s) if given.idle_s else {}
        memory: Any = bus.link.client.info("memory")
        sampled = sampler.samples[-1]
    told = json.loads((run_dir / "broker.clocks.json").read_text())
    began = min(at for at, name, _ in told["spans"] if name == ASKED)
    first, last = sampler.between(began, ended)
    assert first.at <= began <= ended <= max(last.at, sampled.at)
    figures: dict[str, Any] = {
        "students": len(settings.names),
        "replicas": given.replicas * len(settings.names),
        "steps": given.steps,
        "seconds": ended - began,
        "broker_cpu_s": (last.broker - first.broker) / given.steps,
        "redis_cpu_s": (last.redis - first.redis) / given.steps,
        "redis_peak_bytes": memory["used_memory_peak"],
        "state_bytes": len(state.model_dump_json()),
        "livez_s": spread([seconds for at, seconds in probe.seconds if began <= at <= ended]),
        "redis_commands": commands_between(first, last),
        "idle": idle,
    }
    figures |= clocked(told, json.loads((run_dir / "trainers.clocks.json").read_text()), began, ended, given.steps)
    figures["batches"] = {name: _batches(run_dir, name, given.steps) for name in settings.names}
    figures["shares"] = {
        "broker": figures["broker_cpu_s"] / PAPER_STEP_S,
        "redis": figures["redis_cpu_s"] / PAPER_STEP_S,
        "files": figures["files_s"] / PAPER_STEP_S,
        "trainers_read": figures["trainers_s"] / PAPER_STEP_S,
    }
    return figures


def _batches(run_dir: Path, student: str, steps: int) -> dict[str, Any]:
    """What a student's batches hold: bytes, samples, and feedbacks by verdict."""
    verdicts: Counter[str] = Counter()
    samples = size = 0
    for step in range(1, steps + 1):
        directory = batch_directory(student, step)
        manifest = BatchManifest.model_validate_json((run_dir / directory / MANIFEST).read_bytes())
        verdicts += Counter(manifest.verdicts)
        samples += manifest.samples
        size += (run_dir / directory / GROUPS).stat().st_size
    return {"bytes": size, "samples": samples, "verdicts": verdicts}


def _steps(bus: RedisBus) -> int:
    """That every student has done."""
    return min(_loaded(bus).steps.values()) if bus.load_state() else 0


def _stands(bus: RedisBus) -> bool:
    return bus.load_state() is not None and _loaded(bus).paused is not None


def _loaded(bus: RedisBus) -> RunState:
    text = bus.load_state()
    assert text is not None
    return RunState.model_validate_json(text)


def tell(figures: dict[str, Any]) -> None:
    print(
        f"{figures['students']} students, {figures['replicas']} replicas, {figures['steps']} steps in "
        f"{figures['seconds']:.0f} s, {figures['reports']:.0f} reports a step, "
        f"state {figures['state_bytes'] / 1024:.0f} KB"
    )
    for name, share in figures["shares"].items():
        print(f"{name}: {100 * share:.2f} % of {PAPER_STEP_S:.0f} s")
    for name, what in (
        ("livez_s", "/livez"),
        ("report_s", "handling a report"),
        ("report_cpu_s", "of it on a processor"),
        ("wait_s", "a report's wait and handling"),
    ):
        each = figures[name]
        print(f"{what}: p50 {1000 * each['p50']:.0f}, p99 {1000 * each['p99']:.0f}, most {1000 * each['max']:.0f} ms")
    for name, each in figures["spans"].items():
        print(f"  {name}: {each['s']:.2f} s a step, {each['times']:.0f} times")
    for name, each in figures["redis_commands"].items():
        print(f"  redis {name}: {each['per_s']:.0f}/s, {100 * each['share']:.2f} % of its thread")
    if figures["idle"]:
        print("  polling: " + ", ".join(f"{name} {value:.2f}" for name, value in figures["idle"].items()))
    print(f"  redis' memory, at most: {figures['redis_peak_bytes'] / 2**20:.0f} MiB")
    tokens = {name: count for name, count in sorted(figures["counts"].items()) if " " in name and count}
    for name, each in figures["batches"].items():
        verdicts = ", ".join(f"{verdict} {count}" for verdict, count in each["verdicts"].items())
        print(f"  batches of {name}: {each['bytes'] / 2**20:.1f} MiB, {each['samples']} samples, {verdicts}")
    print("  counted: " + ", ".join(f"{name} {count}" for name, count in tokens.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=8, help="of each student")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--feedback-tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--step-s", type=float, default=PAPER_STEP_S, help="about how long a step takes")
    parser.add_argument("--idle-s", type=float, default=0.0, help="look so long at what polling costs, at first")
    parser.add_argument(
        "--nice", type=int, default=0, help="of replicas, which cost the most here, on a machine with other work"
    )
    parser.add_argument("--stream", action="store_true", help="run.stream = true")
    parser.add_argument(
        "--run-dir", type=Path, help="an empty directory, which is left with its logs; none: one that goes"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(given, given.run_dir or Path(directory))
    tell(figures)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
