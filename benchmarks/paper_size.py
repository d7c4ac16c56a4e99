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
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis

from benchmarks.paper_size_parts import ASKED, CONCEPT, LEASE_S, RUN
from shared.bus.keys import trainer_lease
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings, to_toml
from shared.config.settings import RunSettings
from shared.contracts.batches import BatchManifest
from shared.contracts.run import RunState, Status
from shared.files.batches import batch_directory
from shared.files.store import GROUPS, MANIFEST
from shared.http.serving import PARENT_VARIABLE
from tests.fakes.sciknoweval import row, write
from tests.fakes.valkey import free_port

PARTS = Path(__file__).with_name("paper_size_parts.py")
PAPER_STEP_S = 120.0
DOMAINS = ("physics", "chemistry", "biology", "materials")
ROWS = 80
PER_PROCESS = 128
"""Replicas in one process: a thread each."""

DEADLINE_S = 3600.0
PROBE_S = 0.25
"""Four a second cost the broker little beside what it does, and are some hundreds in a step."""
SAMPLE_S = POLL_S = 0.5
REDIS_CPU = ("used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children")
FROM_OUTSIDE = ("evalsha", "xread", "get", "set", "mget", "scan", "hget", "xadd", "xlen")
"""Commands that services send; what a script calls is counted under other names, but for a few."""


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


class LoopProbe:
    """Asks the broker's /livez now and then, as a cluster does: when, and seconds until its event loop answered."""

    def __init__(self, url: str) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._url = f"{url}/livez"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "LoopProbe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx2.Client(timeout=60, trust_env=False) as client:
            while not self._stopping.wait(PROBE_S):
                began = time.perf_counter()
                try:
                    client.get(self._url)
                except httpx2.HTTPError:
                    continue  # a connection that stood idle for long is closed under the next request
                self.seconds.append((time.time(), time.perf_counter() - began))


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
    with contextlib.suppress(Exception):
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


@dataclass(frozen=True)
class Sample:
    """Seconds of the processor that broker and Redis have had at a time, and what Redis counts."""

    at: float
    broker: float
    redis: float
    commands: dict[str, tuple[int, float]]


class Sampler(threading.Thread):
    """Takes a sample every SAMPLE_S, from the start: what a stretch cost is known once it is known when it was."""

    def __init__(self, bus: RedisBus, broker: int) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._client = bus.link.client
        self._broker = psutil.Process(broker)

    def run(self) -> None:
        while True:
            try:
                self.samples.append(self.now())
            except (redis.RedisError, psutil.Error):
                return
            time.sleep(SAMPLE_S)

    def now(self) -> Sample:
        info: Any = self._client.info("cpu", "commandstats")
        times = self._broker.cpu_times()
        commands = {
            name.removeprefix("cmdstat_"): (each["calls"], each["usec"] / 1e6)
            for name, each in info.items()
            if name.startswith("cmdstat_")
        }
        return Sample(time.time(), times.user + times.system, sum(info[name] for name in REDIS_CPU), commands)

    def between(self, began: float, ended: float) -> tuple[Sample, Sample]:
        """The last sample before `began`, and the first one after `ended`."""
        before = [sample for sample in self.samples if sample.at <= began]
        after = [sample for sample in self.samples if sample.at >= ended]
        return before[-1], (after or self.samples[-1:])[0]


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


def idle_figures(sampler: Sampler, seconds: float) -> dict[str, float]:
    """What polling costs where there is no work: cores, and calls a second."""
    before = sampler.now()
    time.sleep(seconds)
    after = sampler.now()
    spent = after.at - before.at
    calls = sum(count for name, (count, _) in after.commands.items() if name in FROM_OUTSIDE)
    calls -= sum(count for name, (count, _) in before.commands.items() if name in FROM_OUTSIDE)
    return {
        "redis_cores": (after.redis - before.redis) / spent,
        "broker_cores": (after.broker - before.broker) / spent,
        "calls_per_s": calls / spent,
    }


def commands_between(first: Sample, last: Sample) -> dict[str, dict[str, float]]:
    """The commands that took Redis longest: calls a second, and the share of its thread. Scripts count as a whole, and
    what they call once more by itself."""
    seconds = last.at - first.at
    spent = {
        name: (count - first.commands.get(name, (0, 0.0))[0], used - first.commands.get(name, (0, 0.0))[1])
        for name, (count, used) in last.commands.items()
    }
    longest = sorted(spent.items(), key=lambda item: -item[1][1])[:6]
    return {name: {"per_s": count / seconds, "share": used / seconds} for name, (count, used) in longest}


def clocked(told: Any, read: Any, began: float, ended: float, steps: int) -> dict[str, Any]:
    """What the clocks in broker and trainers say of this stretch, a step."""
    spans = [(name, seconds) for at, name, seconds in told["spans"] if began <= at <= ended]
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, seconds in spans:
        sums[name] += seconds
        counts[name] += 1
    reports = [seconds for name, seconds in spans if name.startswith("report: ")]
    shown = sorted(name for name in sums if name.startswith(("report: ", "file: ", "redis: ")))
    return {
        "reports": len(reports) / steps,
        "report_s": spread(reports),
        "report_cpu_s": spread([seconds for name, seconds in spans if name == "worked"]),
        "wait_s": spread([seconds for name, seconds in spans if name == "wait"]),
        "spans": {name: {"s": sums[name] / steps, "times": counts[name] / steps} for name in shown},
        "files_s": sum(seconds for name, seconds in sums.items() if name.startswith("file: ")) / steps,
        "trainers_s": sum(seconds for _, _, seconds in read["spans"]) / steps,
        "counts": told["counts"] | read["counts"],
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


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
