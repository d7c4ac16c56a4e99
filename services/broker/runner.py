"""The broker's loop: take a report, apply it to the state machine, carry out its commands, commit all at once.

One event is one commit: the new state, the jobs it leads to and the acknowledgement of the event move
together, so a broker that is killed anywhere takes the same event again and arrives at the same state.
Files (sealed batches) are written before the commit, and adopted if they are there already.
A commit whose answer is lost may be stored or not: the very same one is sent again before anything else is handled.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.broker import metrics
from services.broker.dispatch import Dispatcher, Outgoing
from services.broker.exchange import news
from services.broker.exchange.groups import GroupReader, Sealer, UnusableBatchError
from services.broker.machine import machine
from services.broker.machine.moves import (
    Command,
    Controlled,
    Forget,
    IssueEval,
    IssueFeedback,
    IssueRevision,
    IssueRollout,
    KeepAct,
    KeepRecord,
    MachineEvent,
    SealBatch,
    SealGroup,
    Serve,
    TakenUp,
    Tell,
    Ticked,
    VersionServed,
)
from services.broker.machine.plan import Plan
from services.broker.recovery import (
    adopted_scores,
    basis_of,
    choose,
    drop_open_work,
    keep_initial_scores,
)
from services.broker.reports import ReportReader
from services.broker.upkeep import Replicas, VersionRetention, disagreement, sweep_payloads
from shared.bus.keys import BROKER, RESULTS, queues_of, train
from shared.bus.port import Bus, Commit, Delivery
from shared.clock import Clock, WorkingTime
from shared.config.settings import RunSettings
from shared.contracts.acting import act_record
from shared.contracts.events import Event, Stamp
from shared.contracts.run import RunState, Status
from shared.contracts.weights import ServeSet, step_record
from shared.errors import UnavailableError, WriteError
from shared.files.batches import sealed_steps
from shared.files.durable import atomic_write
from shared.files.state import identity_of, read_state_file, require_own_state, write_state_file
from shared.files.store import LocalStore
from shared.obs.faults import fault_point
from shared.problems.problem import ProblemSet

TICK_S = 1.0
SWEEP_S = 60.0
# Also how long a stop or a lost lease can go unnoticed while no report comes.
BLOCK_S = 0.5
# Reports fetched at once. They are still handled one by one, each with a commit of its own.
TAKE = 64

log = structlog.get_logger()


@dataclass
class Handling:
    """What one event leads to, while it is put together. stamp: of all that it tells."""

    stamp: Stamp
    out: Outgoing = field(default_factory=Outgoing)
    events: list[Event] = field(default_factory=list)
    serve: list[tuple[str, str]] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)

    def tell(self, event: Event) -> Event:
        """The event as it is told."""
        told = event.stamped(self.stamp)
        self.events.append(told)
        return told


@dataclass(frozen=True)
class Handled:
    """A commit, and what is done when it is stored: the new state, and the payloads that nobody needs any more."""

    commit: Commit
    state: RunState
    forget: Sequence[str]


class Runner:
    """Owns the run's state; `state` is replaced, never changed in place, so that others may read it."""

    def __init__(
        self,
        settings: RunSettings,
        plan: Plan,
        problems: ProblemSet,
        bus: Bus,
        run_dir: Path,
        clock: Clock,
        *,
        consumer: str,
        fence: int,
        train: bool = True,
    ) -> None:
        self._plan = plan
        self._bus = bus
        self._run_dir = run_dir
        self._clock = clock
        self._time = WorkingTime(clock)
        self._consumer = consumer
        self._fence = fence
        self._train = train
        self._store = LocalStore(run_dir)
        self._groups = GroupReader(settings, problems, bus, self._store)
        self._replicas = Replicas(settings, bus)
        self._sealer = Sealer(
            plan.run,
            self._store,
            self._groups,
            problems.format.template_hash,
            fence,
            mini_batches=None if plan.streamed is None else plan.mini_batches,
        )
        self._source = f"broker/{consumer}"
        self._reports = ReportReader(settings, plan, problems, self._groups, self._replicas)
        self._dispatcher = Dispatcher(settings, plan, problems, self._groups)
        self._basis = basis_of(settings, problems, run_dir)
        self._retention = VersionRetention(settings.retention, run_dir, plan.students)
        self._next_tick_s = 0.0
        self._next_sweep_s = 0.0
        self._deadlines_due = False
        self._rebuilding = False
        self._unsaved = False
        self._taken: deque[Delivery] = deque()
        # A commit that was sent and not answered. Nothing is handled before it is known to be stored.
        self._unanswered: Handled | None = None
        self.problem: str | None = None
        self.state = machine.new_run(plan, incarnation=0, at=self._time.now_s(), identity=identity_of(run_dir))

    # Starting and looping ------------------------------------------------------------------------------
    def recover(self) -> None:
        """Take up the run where Redis or state.json says it is, or begin it. Raises ConfigError where Redis holds the
        state of another run of this name."""
        in_redis = self._bus.load_state()
        require_own_state(in_redis, self._plan.run, self._run_dir)
        found = choose(in_redis, read_state_file(self._run_dir))
        if found.state is not None:
            self.state = found.state
        log.info("run taken up", source=found.source, why=found.why, status=self.state.status, round=self.state.round)
        self._rebuilding = found.redis_was_empty
        if found.redis_was_empty:
            drop_open_work(self._bus, self._plan.students, self._fence)
        self._sealer.found = {student: sealed_steps(self._run_dir, student) for student in self._plan.students}
        sealed = {student: max(steps, default=0) for student, steps in self._sealer.found.items()}
        # Only a new run takes scores over; one that goes on has its own, or is about to.
        initial = () if found.state is not None else adopted_scores(self._run_dir, self._basis)
        began_again = TakenUp(self._time.now_s(), found.redis_was_empty, sealed, initial)
        self._handle(began_again, news.taken_up(found, sealed))
        self._rebuilding = False

    def loop(self, stopping: threading.Event, lost: threading.Event) -> None:
        """Handle reports until `stopping`, or until the lease is `lost`.

        A Redis that does not answer is waited for, as is a disk that is full, and that time counts for nothing: reports
        of what was done meanwhile are still on their way. A Redis that came back empty has lost the lease, too: whoever
        takes the run up next fills it again. Raises FencedError where a commit finds that out first.
        """
        while not stopping.is_set() and not lost.is_set():
            try:
                self._turn()
                self.problem = None
            except (UnavailableError, WriteError) as error:
                self.problem = str(error)
                log.warning("the run stands still", error=str(error))
                stopping.wait(TICK_S)
                self._time.skip()

    def _turn(self) -> None:
        # What the last turn left over comes first: a commit without an answer, then a state that a full disk refused.
        self._finish()
        self._save()
        if not self._taken:
            self._taken.extend(self._bus.take([(RESULTS, BROKER)], self._consumer, limit=TAKE, block_s=BLOCK_S))
        nothing_waits = not self._taken  # in Redis either: the take above came back empty
        while self._taken:
            self._handle_delivery(self._taken[0])
        now = self._clock.monotonic_s()
        if now >= self._next_tick_s:
            self._next_tick_s = now + TICK_S
            self._tick()
            self._deadlines_due = True
        if self._deadlines_due and nothing_waits:
            # Never before all reports are read: what is given up may have been done long ago.
            self._deadlines_due = False
            self._handle_if_changed(Ticked(self._time.now_s()))
        if now >= self._next_sweep_s:
            self._next_sweep_s = now + SWEEP_S
            for queue, group in queues_of(self._plan.students):
                self._bus.trim(queue, group)
            sweep_payloads(self._bus, self.state, self._fence)
            self._retention.sweep(self.state)

    def _tick(self) -> None:
        """Versions that replicas hold without having said so since (their word was lost), and whether student and
        trainer make the same of messages."""
        at = self._time.now_s()
        beats = self._bus.heartbeats()
        reason = disagreement(self._plan.students, beats)
        # A run that stands already keeps the reason that it has.
        if reason is not None and self._train and self.state.paused is None:
            self._handle_if_changed(Controlled(at, "pause", reason))
        for student in self._plan.students:
            live = self.state.version[student]
            if self.state.served.get(student) == live:
                continue
            if self._replicas.enough(student, live):
                self._handle(VersionServed(at, student, live))

    # One event -----------------------------------------------------------------------------------------
    def _handle_delivery(self, delivery: Delivery) -> None:
        """The first of those in hand. It leaves them once it is ended or its commit is made, so that one that the bus
        fails at is handled again, and those behind it are not lost."""
        # Against the state as it is now: what came before it in the same take may have closed its step.
        report = self._reports.read(delivery.message, self.state, self._time.now_s())
        if report is None:
            self._bus.complete(delivery)
            self._taken.popleft()
            return
        handled = self._handled(*self._apply(report.event), report.events, delivery)
        self._taken.popleft()
        self._commit(handled)

    def _handle_if_changed(self, event: MachineEvent) -> None:
        state, commands = self._apply(event)
        # A tick comes every second and changes nothing, mostly: no commit and no state.json for those.
        if commands or _facts(state) != _facts(self.state):
            self._commit(self._handled(state, commands))

    def _handle(self, event: MachineEvent, events: Sequence[Event] = ()) -> None:
        """An event of the broker's own."""
        self._commit(self._handled(*self._apply(event), events))

    def _handled(
        self,
        state: RunState,
        commands: Sequence[Command],
        events: Sequence[Event] = (),
        delivery: Delivery | None = None,
    ) -> Handled:
        """Carry out what an event led to. state: that after it, which no one has seen yet."""
        handling = Handling(Stamp(at=self._clock.wall_s(), source=self._source))
        for event in events:
            handling.tell(event)
        self._execute(state, commands, handling)
        # Kept in the files, too: a Redis that lost its data would hand out lower tokens (`recovery.highest_fence`).
        state.fence = self._fence
        # Before the commit, as every file: a broker that is killed in between finds it there and leaves it as it is.
        if state.scores and not self.state.scores:
            keep_initial_scores(self._run_dir, state, self._basis)
        commit = Commit(
            fence=self._fence,
            revision=state.revision,
            state=state.model_dump_json(),
            publish=handling.out.publish,
            payloads=handling.out.payloads,
            events=handling.events,
            serve=handling.serve,
            ack=delivery,
            rebuild=self._rebuilding,
        )
        return Handled(commit, state, handling.forget)

    def _commit(self, handled: Handled) -> None:
        self._unanswered = handled
        self._finish()

    def _finish(self) -> None:
        """Carry through what is made ready, first or once more. Raises UnavailableError: it is still to be done."""
        if self._unanswered is None:
            return
        state = self._unanswered.state
        fault_point("broker.before-commit")
        self._bus.commit(self._unanswered.commit)
        fault_point("broker.after-commit")
        # Not sooner: what the API and the metrics read is always a state that is stored.
        before, self.state = self.state, state
        self._unsaved = True
        metrics.show(state, self._plan)
        # After the commit: an event that had to be handled again would need these payloads again.
        for key in self._unanswered.forget:
            self._bus.drop_payloads(key, self._fence)
        self._unanswered = None
        standing = _standing(state)
        if standing and standing != _standing(before):
            log.info("run stands", **standing)
        self._save()

    def _save(self) -> None:
        """Write state.json, if it is older than what was committed. Raises WriteError; the next turn tries again."""
        if self._unsaved:
            write_state_file(self._run_dir, self.state)
            self._unsaved = False

    def _apply(self, event: MachineEvent) -> tuple[RunState, list[Command]]:
        if self._train:
            return machine.apply(self.state, self._plan, event)
        return machine.observe(self.state, self._plan, event)

    def _execute(self, state: RunState, commands: Sequence[Command], handling: Handling) -> None:
        for command in commands:
            match command:
                case IssueEval() | IssueRollout() | IssueFeedback() | IssueRevision():
                    self._dispatcher.issue(command, state, handling.out)
                case Serve():
                    wanted = ServeSet(live=command.live, versions=command.versions, revision=state.revision)
                    handling.serve.append((command.student, wanted.model_dump_json()))
                case Forget():
                    handling.forget.append(command.key)
                # Files first, then the commit: handled again, an event writes the same names over.
                case KeepRecord(record=record):
                    path = self._run_dir / step_record(record.student, record.step)
                    atomic_write(path, record.model_dump_json().encode())
                case KeepAct(acted=acted):
                    told = handling.tell(acted)
                    atomic_write(self._run_dir / act_record(acted.act.id), told.model_dump_json().encode())
                case Tell(event=event):
                    handling.tell(event)
                case SealGroup():
                    sealed, payload = self._sealer.seal_ahead(state, command.student, command.problem_id)
                    # In the state that is committed with the announcement, as a batch's counts are.
                    machine.seal_ahead(state, command.student, sealed.group)
                    handling.out.payloads.append(payload)
                    handling.out.publish.append((train(command.student), sealed))
                case SealBatch():
                    self._seal(command, state, handling)

    def _seal(self, command: SealBatch, state: RunState, handling: Handling) -> None:
        """Write the open step's batch and announce it; the state counts what it holds."""
        phase = next(phase for phase in state.phases if phase.student == command.student)
        try:
            sealed = self._sealer.seal(state, phase)
        except UnusableBatchError as error:
            # A broker that ended here would take the same event again, and end again.
            log.error("batch cannot be used", student=command.student, step=command.step, error=str(error))
            handling.tell(machine.cannot_seal(state, command.student, str(error)).event)
            return
        # In the state that is committed with the announcement, so that a batch is never announced and not counted.
        machine.count_batch(state, sealed.manifest)
        handling.out.publish.append((train(command.student), sealed.message))
        handling.tell(news.sealed(sealed.manifest))


def _standing(state: RunState) -> dict[str, str | None]:
    """Why the run does not go on by itself; nothing if it does."""
    stands = state.paused is not None or state.status in (Status.DONE, Status.FAILED)
    return {"status": state.status, "paused": state.paused, "failed": state.failed} if stands else {}


def _facts(state: RunState) -> RunState:
    """The state without what every event changes."""
    return state.model_copy(update={"revision": 0, "at": 0.0, "fence": 0})
