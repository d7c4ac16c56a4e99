"""The engine's thread: the only one that loads versions and starts generations, turn by turn.

A turn: answer people, tell the bus what is due, keep the versions in step, take jobs, start what may run, end what ran.
What always holds: while the bus is away people are still answered, and what was generated waits in the outbox; a job
leaves the hands once, and one under which the engine was lost is made again with the same seeds.

Engines differ in one thing only. A continuous one takes requests while others run, so each job and each question is a
call of its own, and this thread never waits for one: a new version is loaded while others decode. A static one runs a
batch to its end, so the jobs of one version are one call that this thread waits for: people wait for at most the batch
that runs, and feedback for at most one batch of lower kinds.
"""

import threading
from collections.abc import Iterable, Sequence
from itertools import groupby

import structlog

from services.student import metrics
from services.student.board import ANSWER_SILENCE_S, Board
from services.student.engines.port import (
    Engine,
    EngineAwayError,
    EngineState,
    Generation,
    UnknownVersionError,
)
from services.student.http.interactive import Inquiry, InteractiveQueue
from services.student.weights.loader import VersionRefusedError
from services.student.weights.versions import VersionKeeper
from services.student.work.calls import EngineCall, EngineCalls, ReadyJob, Running, Work
from services.student.work.generation import Failure, describe, requests_for
from services.student.work.jobs import LOAD_TRIES, HeldJob, JobIntake, Outbox
from services.student.work.resting import Rest
from shared.clock import Clock
from shared.contracts.jobs import JobKind
from shared.errors import MalformedMessageError, OpcodError, UnavailableError
from shared.obs.faults import fault_point

IDLE_S = 0.1
"""Longest wait for a job; people wait for it too."""

POLL_S = 0.05
"""Longest wait for what is under way, while the bus may have more: a job, or a new version. Not shorter than that may
take, since each look costs an engine in this process some of its time."""

RETRY_S = 0.5
"""Pause before the next try while the bus does not answer."""

NOTHING_NEW = frozenset({EngineState.AWAY, EngineState.SUSPECT})
"""No job is taken or started, and no version loaded, until the engine is known to be there. People are still told."""

SECONDS_PER_TOKEN = 1.0
"""A decoding step of a full batch that takes longer than this means a stuck engine."""

MAX_TRIES = 5
"""Of a job whose engine was lost under it: by then it is the job."""

log = structlog.get_logger()


class GenerationError(OpcodError):
    """The engine failed on a request; class and message of its error are in the text."""


class EngineDeadError(UnavailableError):
    """The engine says that it cannot answer any more: the process ends, and its jobs are taken again."""


class EngineWorker:
    """`run` is the whole life of the engine's thread; nothing else here may be called from another one."""

    def __init__(
        self,
        *,
        engine: Engine,
        intake: JobIntake,
        versions: VersionKeeper,
        outbox: Outbox,
        interactive: InteractiveQueue,
        board: Board,
        running: Running,
        clock: Clock,
        stopping: threading.Event,
        admitted: threading.Event,
        rest: Rest | None = None,
    ) -> None:
        """rest: of an engine that shares its GPU."""
        self._engine = engine
        self._rest = rest
        self.intake = intake
        self._versions = versions
        self._outbox = outbox
        self._interactive = interactive
        self._board = board
        self._calls = EngineCalls(engine, running, clock)
        self._stopping = stopping
        self._admitted = admitted
        self._connected = False
        if not engine.continuous:  # else this thread never waits for an answer, and vouches for itself
            interactive.alive = board.beat_of_answer
        board.guides, board.rendering, board.context = engine.guides, engine.rendering, engine.context

    def run(self) -> None:
        """Turn until `stopping`, then give back what is in hand. Raises EngineDeadError."""
        while not self._stopping.is_set():
            self.turn()
        self._drain()

    def turn(self) -> None:
        """One turn; waits up to IDLE_S, for a job or for the engine, when there is nothing to do."""
        self._board.beat()
        state = self._check_health()
        try:
            # Before the bus is asked for anything: people are answered while it is away.
            answered = self._answer_people()
            self._connect()
            idle_s = 0.0 if answered else IDLE_S
            if state in NOTHING_NEW:
                self._stopping.wait(idle_s)
            elif self._may_begin():
                self._keep_in_step(idle_s)
            else:
                # Jobs are taken, and wait: they are what a turn is asked for.
                self.intake.take(idle_s)
                if self.intake.jobs:
                    self._stopping.wait(POLL_S)
            if self._may_begin():
                self._start_jobs()
            self._end_calls(POLL_S if self._calls.works else 0.0)
            self._outbox.flush()
            self._settle()
        except EngineAwayError as error:
            log.warning("the engine is away", error=str(error))
            self._stopping.wait(RETRY_S)
        except UnavailableError as error:
            self._bus_away(error)
        self._board.free_slots = self.intake.free_slots

    def _may_begin(self) -> bool:
        """Whether the engine may be given anything new."""
        return self._rest is None or not self._rest.over()

    def _settle(self) -> None:
        if self._rest is None:
            return
        busy = bool(self._calls.works)
        ready = bool(self.intake.groups(self._calls.jobs, self._waits_for_version))
        wanted = ready or bool(self._interactive.versions()) or self._versions.behind()
        self._rest.settle(wanted=wanted, busy=busy)

    def _connect(self) -> None:
        if not self._admitted.wait(IDLE_S):
            raise UnavailableError("it is not known yet whether another process has this replica's name")
        if not self._connected:
            self.intake.create_queues()
            self._versions.report_again()
            self._connected = True
        self._outbox.flush()

    def _keep_in_step(self, idle_s: float) -> None:
        self._versions.sync(self._in_use())
        self._outbox.flush()
        self._board.bus_problem = None
        self.intake.take(idle_s)

    def _in_use(self) -> set[str]:
        """Versions that must stay loaded."""
        asked = {question.version for question in self._calls.inquiries}
        return {job.version for job in self.intake.jobs} | self._interactive.versions() | asked

    def _bus_away(self, error: UnavailableError) -> None:
        if isinstance(error, EngineDeadError):
            raise error
        if self._board.bus_problem is None:
            log.warning("the bus does not answer", error=str(error))
        self._board.bus_problem = str(error)
        self._connected = False
        if self._rest is not None:
            # `_settle` is not reached while the bus is away.
            try:
                self._rest.leave_lost(busy=bool(self._calls.works))
            except EngineAwayError as away:
                log.warning("the engine is away", error=str(away))
        self._stopping.wait(RETRY_S)

    def _check_health(self) -> EngineState:
        health = self._engine.health()
        well = health.state in (EngineState.READY, EngineState.SUSPECT)
        self._board.engine_problem = None if well else health.detail
        if health.state is EngineState.DEAD:
            error = EngineDeadError(f"the engine cannot go on: {health.detail}; restart this student")
            _refuse(self._calls.inquiries, error)
            raise error
        return health.state

    # Jobs ------------------------------------------------------------------------------------------------
    def _start_jobs(self) -> None:
        groups = self.intake.groups(self._calls.jobs, self._waits_for_version)
        # Asked anew: the engine may have been lost since the turn began, and a start now would cost each job a try.
        if self._engine.health().state in NOTHING_NEW:
            return
        for group in groups:
            self._start_group(group)
        # With jobs in hand the bus is not waited for, and a job may wait for its version for long.
        if self.intake.jobs and not groups and not self._calls.works:
            self._stopping.wait(POLL_S)

    def _waits_for_version(self, held: HeldJob) -> bool:
        refusals = self._versions.refusals(held.job.version)
        return refusals == held.refusals and 0 < refusals < LOAD_TRIES

    def _start_group(self, group: Sequence[HeldJob]) -> None:
        try:
            self._versions.ensure(group[0].job.version)
        except VersionRefusedError as error:
            refusals = self._versions.refusals(group[0].job.version)
            for held in group:
                self.intake.refuse(held, describe(error), refusals)
            return
        ready = self._ready(group)
        if ready:
            self._announce(ready)
            metrics.BATCH_SEQUENCES.observe(sum(len(work.requests) for work in ready))
            self._start(ready)

    def _ready(self, group: Sequence[HeldJob]) -> list[ReadyJob]:
        ready: list[ReadyJob] = []
        for held, prompts in self.intake.inputs(group):
            try:
                ready.append(ReadyJob(held, prompts, requests_for(held.job, prompts)))
            except MalformedMessageError as error:
                self.intake.fail(held, describe(error))
        return ready

    def _announce(self, ready: Sequence[ReadyJob]) -> None:
        for work in ready:
            if work.held.job.kind is JobKind.FEEDBACK:
                self.intake.announce_start(work.held)
        # Before the engine starts: a static one keeps this thread, and the tutor's deadline counts from this message.
        self._outbox.flush()

    def _end_job(self, work: ReadyJob, result: list[Generation] | Failure, seconds: float) -> None:
        if isinstance(result, Failure):
            self._fail(work.held, result)
        else:
            self.intake.complete(work.held, work.prompts, result, seconds)

    def _fail(self, held: HeldJob, failure: Failure) -> None:
        """A lost engine is no fault of the job, unless it is lost each time."""
        if isinstance(failure.cause, EngineAwayError):
            held.losses += 1
            if held.losses < MAX_TRIES:
                log.warning("engine lost under a job; it waits", job=held.job.id, error=failure.text)
                return
        self.intake.fail(held, failure.text)

    # People ----------------------------------------------------------------------------------------------
    def _answer_people(self) -> bool:
        """Deliver what has ended, start what waits, up to a batch; whether there was any, or is something under way."""
        self._end_calls(0.0)
        if not self._may_begin():
            return bool(self._calls.works)
        questions = self._interactive.take(self._engine.slots)
        for group in self._together(questions):
            version = group[0].version
            if version in self._engine.versions():
                self._start(group)
            else:
                _refuse(group, self._not_there(version))
        return bool(questions or self._calls.works)

    def _together(self, questions: Sequence[Inquiry]) -> list[list[Inquiry]]:
        if self._engine.continuous:
            return [[question] for question in questions]
        by_version = sorted(questions, key=lambda question: question.version)
        return [list(group) for _, group in groupby(by_version, key=lambda question: question.version)]

    def _not_there(self, version: str) -> OpcodError:
        if self._board.engine_problem is not None:
            return UnavailableError(f"the engine is being brought back ({self._board.engine_problem}); try again later")
        return UnknownVersionError(f"{version} was unloaded meanwhile; ask /v1/models what is there")

    def _deliver(self, question: Inquiry, result: list[Generation] | Failure) -> None:
        if isinstance(result, Failure):
            metrics.REQUESTS.labels("failed").inc()
            log.error("request failed", request=question.request_id, version=question.version, error=result.text)
            known = isinstance(result.cause, OpcodError)
            question.answer.set_exception(result.cause if known else GenerationError(result.text))
            return
        metrics.REQUESTS.labels("gone" if question.left.is_set() else "ok").inc()
        metrics.TOKENS.labels("interactive").inc(_tokens(result))
        question.answer.set_result(result)

    # Calls of the engine ---------------------------------------------------------------------------------
    def _start(self, works: Sequence[Work]) -> None:
        """Begin one call; that of a static engine has ended when this returns."""
        self._board.free_slots = self.intake.free_slots
        if not self._engine.continuous:
            self._board.beat(allowance_s=self._allowance_s(works))
        self._calls.start(works)
        self._end_calls(0.0)

    def _allowance_s(self, works: Sequence[Work]) -> float:
        """Longest that these may take, with one more run of each alone."""
        requests = [request for work in works for request in work.requests]
        if all(request.audience is not None for request in requests):
            return ANSWER_SILENCE_S  # people may ask for as much as the model holds; each piece is a sign of life
        longest = max(request.sampling.max_tokens for request in requests)
        turns = -(-len(requests) // self._engine.slots) + len(works)
        return longest * turns * SECONDS_PER_TOKEN

    def _end_calls(self, wait_s: float) -> None:
        """Hand out what ended calls brought; waits up to `wait_s` for the first.

        Raises EngineDeadError after people were told; a dead engine is no fault of the jobs, which stay in hand.
        """
        ended = self._calls.ended(wait_s)
        try:
            if any(isinstance(result, Failure) for call in ended for result in call.results or ()):
                self._check_health()
        except EngineDeadError as error:
            # These are not under way any more, so the check has not told them.
            _refuse((question for call in ended for question in call.inquiries), error)
            raise
        for call in ended:
            self._hand_out(call)

    def _hand_out(self, call: EngineCall) -> None:
        if call.results is None:
            log.warning("generation cancelled", jobs=[held.job.id for held in call.jobs])
            for question in call.inquiries:
                self._deliver(question, Failure(UnavailableError("this student is shutting down; ask again")))
            return
        if call.jobs:
            fault_point("student.generated")
            metrics.BATCH_SECONDS.observe(call.seconds)
        tokens = max(sum(_tokens(result) for result in call.results), 1)
        for work, result in zip(call.works, call.results, strict=True):
            if isinstance(work, Inquiry):
                self._deliver(work, result)
            else:
                self._end_job(work, result, call.seconds * _tokens(result) / tokens)

    def _drain(self) -> None:
        """What is under way may end; the watch cancels what does not in time."""
        self._board.draining = True
        self._interactive.close()
        while self._calls.works:
            self._end_calls(POLL_S)
        self._calls.close()
        self.intake.release()
        try:
            self._outbox.flush()
        except UnavailableError as error:
            log.warning("left unsaid; it is taken again after its lease", actions=len(self._outbox), error=str(error))


def _refuse(questions: Iterable[Inquiry], error: OpcodError) -> None:
    for question in questions:
        question.answer.set_exception(error)


def _tokens(result: list[Generation] | Failure) -> int:
    return 0 if isinstance(result, Failure) else sum(len(generation.token_ids) for generation in result)
