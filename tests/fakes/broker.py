"""A broker's run on a bus in memory: its Runner, with students and trainers that answer at once and load nothing.

Everything happens in one thread: the workers do what lies in their queues between two turns of the runner's loop.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from services.broker.config import make_plan
from services.broker.exchange.batches import adopt
from services.broker.runner import Runner
from shared.bus.keys import BROKER, LEADER, RESULTS, STUDENTS, TRAINER, jobs, output_field, train
from shared.bus.payloads import pack, unpack
from shared.bus.port import Bus, Delivery
from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.contracts.batches import BatchSealed, GroupSealed
from shared.contracts.events import Event
from shared.contracts.ids import seed_of, version_name
from shared.contracts.jobs import Job, JobDone, JobInput, JobKind, JobOutput, JobStarted, Prompt, PromptOutput, Sample
from shared.contracts.run import RunState, Status
from shared.contracts.weights import ServeSet, VersionLoaded
from shared.files.store import LocalStore
from shared.problems.loading import load_problems
from shared.problems.problem import Problem, ProblemSet
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.figures import step_done
from tests.fakes.student import HandClock

RUN = "test"
STUDENTS_AB = ("a", "b")
THREE = ("students.c.domain=biology", "students.c.engine=scripted", "problems.per_step=3")
"""Overrides that add a student to the two, and a domain."""

TURNS = 400
IDLE_TURNS = 8


def broker_settings(*overrides: str) -> RunSettings:
    """One round of two steps of two problems, three rollouts each; every group with feedback is revised."""
    scripted = ["students.a.engine=scripted", "students.b.engine=scripted"]
    small = ["run.steps_per_round=2", "evaluation.problems_per_job=3", *scripted, *overrides]
    return load_settings(preset="smoke", overrides=small, environ={})


@functools.cache
def _generated(*domains: str) -> ProblemSet:
    """Once for these domains: no override here changes the seed."""
    return load_problems(broker_settings(*(THREE if len(domains) > 2 else ())))


def smoke_problems() -> ProblemSet:
    return _generated("physics", "chemistry")


class FakeStudent:
    """Answers the jobs of one student: right or wrong by the job's seed, feedback anchored in the question.

    held: kinds that are left in the queue. slow: kinds that are begun, and ended by `end_begun` only. spoil: changes
    an output before it is stored.
    """

    def __init__(self, name: str, bus: Bus, problems: ProblemSet) -> None:
        self._name = name
        self._bus = bus
        self._answers = {problem.question: problem for problem in problems.all_problems()}
        self._loaded: set[str] = set()
        self.held: set[JobKind] = set()
        self.slow: set[JobKind] = set()
        self.begun: list[Delivery] = []
        self.spoil: Callable[[Job, JobOutput], JobOutput] = lambda _job, output: output
        self.done: list[JobDone] = []

    def work(self) -> int:
        """Load what must be served and do all jobs that wait; returns how many there were."""
        self._load()
        queues = [(jobs(self._name, kind), STUDENTS) for kind in JobKind if kind not in self.held]
        taken = self._bus.take(queues, f"student-{self._name}", limit=100, block_s=0)
        for delivery in taken:
            job = self._begin(delivery)
            if job.kind in self.slow:
                self.begun.append(delivery)
            else:
                self._end(delivery, job)
        return len(taken)

    def do(self, delivery: Delivery) -> None:
        """Begin a job and end it."""
        self._end(delivery, self._begin(delivery))

    def end_begun(self) -> None:
        """End the jobs of slow kinds that were begun."""
        for delivery in self.begun:
            job = delivery.message
            assert isinstance(job, Job)
            self._end(delivery, job)
        self.begun.clear()

    def _load(self) -> None:
        wanted = self._bus.serve_set(self._name)
        for version in ServeSet.model_validate_json(wanted).versions if wanted else ():
            if version not in self._loaded:
                self._loaded.add(version)
                loaded = VersionLoaded(student=self._name, replica="0", version=version, checksum="c" * 64, seconds=0.1)
                self._bus.publish(RESULTS, loaded)

    def _begin(self, delivery: Delivery) -> Job:
        job = delivery.message
        assert isinstance(job, Job)
        self._bus.publish(RESULTS, JobStarted(job_id=job.id, student=self._name, replica="0", attempt=delivery.attempt))
        return job

    def _end(self, delivery: Delivery, job: Job) -> None:
        asked = unpack(job.input, self._bus.get_payload(job.input), JobInput)
        prompts = tuple(self._answer(job, number, prompt) for number, prompt in enumerate(asked.prompts))
        output = self.spoil(job, JobOutput(job_id=job.id, version=job.version, prompts=prompts))
        ref, data = pack(output, job.input.key, output_field(job.id))
        done = JobDone(
            job_id=job.id,
            kind=job.kind,
            student=self._name,
            replica="0",
            outcome="ok",
            version=job.version,
            output=ref,
            seconds=0.5,
            output_tokens=sum(len(sample.token_ids) for prompt in prompts for sample in prompt.samples),
        )
        self.done.append(done)
        assert self._bus.complete(delivery, announce=(RESULTS, done), payload=(ref, data))

    def _answer(self, job: Job, number: int, prompt: Prompt) -> PromptOutput:
        problem = self._answers[prompt.messages[-1].content.split("\n")[0]]
        samples = [self._text(job, problem, seed_of(job.seed, number, index)) for index in range(prompt.samples)]
        return PromptOutput(prompt_token_ids=(1, 2), samples=tuple(sample_of(text) for text in samples))

    def _text(self, job: Job, problem: Problem, seed: int) -> str:
        if job.kind is JobKind.FEEDBACK:
            return f"<concept>{problem.kind}</concept> Write the formula down before the numbers, please."
        right = int(problem.answer)
        return f" {problem.kind} = {right if seed % 2 else right + 1}"


def sample_of(text: str) -> Sample:
    return Sample(text=text, token_ids=(5, 6, 7), logprobs=(-0.5, -0.5, -0.5), finish_reason="stop")


class FakeTrainer:
    """Checks and applies sealed batches in name only. `applied` holds the steps in order; `begun` what came ahead of a
    batch."""

    def __init__(self, name: str, bus: Bus, store: LocalStore) -> None:
        self._name = name
        self._bus = bus
        self._store = store
        self.applied: list[int] = []
        self.begun: list[GroupSealed] = []
        self.held = False

    def work(self) -> int:
        if self.held:
            return 0
        taken = self._bus.take([(train(self._name), TRAINER)], f"trainer-{self._name}", limit=10, block_s=0)
        for delivery in taken:
            sealed = delivery.message
            if isinstance(sealed, GroupSealed):
                self.begun.append(sealed)
                self._bus.complete(delivery)
                continue
            assert isinstance(sealed, BatchSealed)
            self._check(sealed)
            if sealed.step not in self.applied:
                self.applied.append(sealed.step)
            self._bus.complete(delivery, announce=(RESULTS, step_done(self._name, sealed.step, sealed.sha256)))
        return len(taken)

    def _check(self, sealed: BatchSealed) -> None:
        found = adopt(self._store, sealed.student, sealed.step, RUN)
        assert found is not None and found.sha256 == sealed.sha256
        assert sealed.base_version == version_name(self._name, sealed.step - 1)


class Between(threading.Event):
    """Stands in for `stopping`: asked before every turn of a loop, it answers with `end`."""

    def __init__(self, end: Callable[[], bool]) -> None:
        super().__init__()
        self._end = end

    def is_set(self) -> bool:
        return self._end()


class Worker(Protocol):
    def work(self) -> int:
        """Whatever waits; how much it was."""
        ...


@dataclass
class BrokerBench:
    """One run in `run_dir`; `start` makes a runner as a newly started broker does. open_bus: in memory if none."""

    run_dir: Path
    overrides: Sequence[str] = ()
    train: bool = True
    server: MemoryServer = field(default_factory=MemoryServer)
    open_bus: Callable[[], Bus] | None = None

    def __post_init__(self) -> None:
        self.settings = broker_settings(*self.overrides)
        self.problems = _generated(*self.settings.domains)
        self.plan = make_plan(RUN, self.settings, self.problems)
        self.clock = HandClock()
        self.open_bus = self.open_bus or (lambda: MemoryBus(self.server))
        self.workers = self.open_bus()
        self.students = {name: FakeStudent(name, self.workers, self.problems) for name in self.settings.names}
        self.trainers = {
            name: FakeTrainer(name, self.workers, LocalStore(self.run_dir)) for name in self.settings.names
        }
        self.runner = self.start()

    def start(self, *, train: bool | None = None) -> Runner:
        """A broker process: queues, the lease, the run taken up. An earlier one is fenced off."""
        self.train = self.train if train is None else train
        assert self.open_bus is not None
        bus = self.open_bus()
        create_queues(bus, self.settings.names)
        fence = bus.acquire_lease(LEADER, "broker/0", ttl_s=600)
        assert fence is not None
        self.runner = Runner(
            self.settings,
            self.plan,
            self.problems,
            bus,
            self.run_dir,
            self.clock,
            consumer="broker/0",
            fence=fence,
            train=self.train,
        )
        self.runner.recover()
        return self.runner

    @property
    def state(self) -> RunState:
        return self.runner.state

    def run(self, until: Callable[[RunState], bool]) -> RunState:
        """Turns of the loop, workers between them, until the state is as wanted."""
        idle = 0

        def end() -> bool:
            nonlocal idle
            if until(self.state):
                return True
            busy = self.work() > 0 or self.workers.queue_depth(RESULTS, BROKER)[0] > 0
            idle = 0 if busy else idle + 1
            assert idle < IDLE_TURNS, f"nobody has anything to do: {self.state.model_dump_json(indent=1)}"
            return False

        self.runner.loop(Between(end), threading.Event())
        return self.state

    def work(self) -> int:
        workers: list[Worker] = [*self.students.values(), *self.trainers.values()]
        return sum(worker.work() for worker in workers)

    def settle(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(TURNS):
            if self.work() == 0 and self.workers.queue_depth(RESULTS, BROKER)[0] == 0:
                return
            self.turn()
        raise AssertionError(f"still at work after {TURNS} turns")

    def turn(self) -> None:
        """One turn of the loop; whatever waits on `results` is handled."""
        seen: list[bool] = []

        def end() -> bool:
            seen.append(True)
            return len(seen) > 1

        self.runner.loop(Between(end), threading.Event())

    def serve_set(self, student: str) -> ServeSet:
        """The one that its replicas follow."""
        wanted = self.workers.serve_set(student)
        assert wanted is not None
        return ServeSet.model_validate_json(wanted)

    def finish(self) -> RunState:
        return self.run(lambda state: state.status is Status.DONE)

    def events(self, kind: str) -> list[Event]:
        return [event for _, event in self.workers.read_events("0", count=10_000, block_s=0) if event.kind == kind]


def create_queues(bus: Bus, students: Sequence[str] = STUDENTS_AB) -> None:
    bus.create_queue(RESULTS, BROKER)
    for student in students:
        bus.create_queue(train(student), TRAINER)
        for kind in JobKind:
            bus.create_queue(jobs(student, kind), STUDENTS)
