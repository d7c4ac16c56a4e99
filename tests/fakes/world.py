"""A world for the broker's state machine: carries out its commands in any order, with repeats, losses and restarts."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.broker.machine import machine
from services.broker.machine.moves import (
    Command,
    IssueEval,
    IssueFeedback,
    IssueRevision,
    IssueRollout,
    JobReported,
    MachineEvent,
    SealBatch,
    SealGroup,
    Serve,
    StepFinished,
    TakenUp,
    Tell,
    Ticked,
    VersionServed,
)
from services.broker.machine.plan import Plan, PlannedProblem
from shared.config.alarms import AlarmsSection
from shared.contracts.batches import AddedGroup
from shared.contracts.diagnostics import RevisionCount
from shared.contracts.events import BaseEvent, StatusChanged
from shared.contracts.ids import version_steps
from shared.contracts.jobs import JobKind
from shared.contracts.run import AnswerCounts, RunState, Split, Status
from tests.fakes.figures import step_done

Told = TypeVar("Told", bound=BaseEvent)
Issued = TypeVar("Issued", bound=Command)

DOMAINS = ("physics", "chemistry")


def small_plan(**changes: object) -> Plan:
    """Two rounds of two steps with four problems each."""
    problems = tuple(PlannedProblem(f"{domain}-{i}", domain) for domain in DOMAINS for i in range(6))
    fields: dict[str, object] = {
        "run": "test",
        "seed": 1,
        "rounds": 2,
        "steps_per_round": 2,
        "parallel": True,
        "gate_mode": "cognizance",
        "gate_scope": "pair",
        "tutor_choice": "best",
        "tau": 0.2,
        "max_break_rate": 0.5,
        "strong_domain": {"a": "physics", "b": "chemistry"},
        "train": problems,
        "partitions": {split: problems for split in Split},
        "majority": {split: dict.fromkeys(DOMAINS, 0.25) for split in Split},
        "samples": {Split.VALIDATION: 4, Split.TEST: 2},
        "rollout_samples": 4,
        "problems_per_job": 5,
        "problems_per_step": 4,
        "balance_domains": False,
        "balance_kinds": False,
        "tutor_timeout_s": 30.0,
        "revise_share": 0.5,
        "alarms": AlarmsSection(),
        "hysteresis": 0.0,
        "keep_best": False,
        "latest_tutor": False,
    }
    return Plan(**(fields | changes))  # type: ignore[arg-type]


@dataclass
class World:
    """Keeps what is under way; `step` lets one thing happen."""

    plan: Plan
    seed: int = 0
    strong: int = 4
    weak: int = 4
    at: float = 1000.0
    state: RunState = field(init=False)
    pending: list[MachineEvent] = field(default_factory=list)
    handled: list[MachineEvent] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    rng: random.Random = field(init=False)
    revises: Callable[[IssueRevision], tuple[RevisionCount, ...]] = lambda _command: ()

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.state = machine.new_run(self.plan, incarnation=0, at=self.at)

    def send(self, event: MachineEvent) -> list[Command]:
        self.state, commands = machine.apply(self.state, self.plan, event)
        self.handled.append(event)
        self.commands += commands
        for command in commands:
            self._carry_out(command)
        return commands

    def start(self) -> None:
        self.send(TakenUp(self.at, False))

    def step(self) -> bool:
        """One pending event, drawn at random; False when nothing is under way."""
        self.at += 1
        if not self.pending:
            return False
        self.send(self.pending.pop(self.rng.randrange(len(self.pending))))
        return True

    def finish(self, limit: int = 20_000) -> RunState:
        for _ in range(limit):
            if self.state.status in (Status.DONE, Status.FAILED) or not self.step():
                return self.state
        raise AssertionError(f"not done after {limit} events: {self.state.status}")

    def of(self, kind: type[Issued]) -> list[Issued]:
        return [command for command in self.commands if isinstance(command, kind)]

    def told(self, kind: type[Told]) -> list[Told]:
        return told(self.commands, kind)

    def statuses(self) -> list[str]:
        return [event.status for event in self.told(StatusChanged) if event.reason is None]

    def _carry_out(self, command: Command) -> None:
        match command:
            case IssueEval():
                self.pending.append(self._evaluated(command))
            case IssueRollout():
                self.pending.append(self._done(command.job_id, JobKind.ROLLOUT))
            case IssueFeedback():
                self.pending.append(self._done(command.job_id, JobKind.FEEDBACK))
            case IssueRevision():
                done = self._done(command.job_id, JobKind.REVISE)
                self.pending.append(replace(done, revised=self.revises(command)))
            case SealGroup():
                added = AddedGroup(problem_id=command.problem_id, sha256=f"{len(self.commands):064x}")
                machine.seal_ahead(self.state, command.student, added)
            case SealBatch():
                self.pending.append(self.trained(command.student, command.step))
            case Serve():
                self.pending.append(VersionServed(self.at, command.student, command.live))

    def trained(self, student: str, step: int) -> StepFinished:
        return StepFinished(self.at, step_done(student, step))

    def _done(self, job_id: str, kind: JobKind) -> JobReported:
        return JobReported(self.at, job_id, "done", kind=kind, output="0" * 64, output_tokens=10)

    def _evaluated(self, command: IssueEval) -> JobReported:
        problems = self.plan.chunk(command.split, command.chunk)
        own = self.plan.strong_domain[command.student]
        correct = {p.id: self.strong if p.domain == own else self.weak for p in problems}
        correct = {name: min(count, command.samples) for name, count in correct.items()}
        answers = {p.domain: AnswerCounts() for p in problems}
        for problem in problems:
            answers[problem.domain] = answers[problem.domain].plus(AnswerCounts(format_ok=command.samples))
        return JobReported(self.at, command.job_id, "done", kind=JobKind.EVAL, correct=correct, answers=answers)


def told(commands: Iterable[Command], kind: type[Told]) -> list[Told]:
    """The events of this kind that the commands tell."""
    return [command.event for command in commands if isinstance(command, Tell) and isinstance(command.event, kind)]


def base_of(world: World, student: str, step: int) -> set[int]:
    """Steps behind the versions that the rollouts of `step` were drawn from."""
    rollouts = [c for c in world.of(IssueRollout) if c.student == student and c.step == step]
    return {version_steps(command.version) for command in rollouts}


def tick(world: World) -> list[Command]:
    return world.send(Ticked(world.at))
