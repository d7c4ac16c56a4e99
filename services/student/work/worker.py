"""The engine's thread: the only one that touches the engine, turn by turn.

A turn: answer people, tell the bus what is due, keep the versions in step, take jobs, run the most urgent group.
What always holds: people wait for at most the group that runs, and feedback for at most one group of lower kinds;
while the bus is away people are still answered, and what was generated waits in the outbox.
"""

import threading
from collections.abc import Sequence
from itertools import groupby

import structlog

from services.student import metrics
from services.student.board import ANSWER_SILENCE_S, Board
from services.student.engines.port import (
    Engine,
    EngineAwayError,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    UnknownVersionError,
)
from services.student.http.people import Inquiry, InteractiveQueue
from services.student.weights.loader import VersionRefusedError
from services.student.weights.versions import VersionKeeper
from services.student.work.generation import Failure, describe, generate_each, requests_for
from services.student.work.jobs import HeldJob, JobIntake, Outbox
from services.student.work.running import Running
from shared.clock import Clock
from shared.contracts.jobs import JobInput, JobKind
from shared.errors import MalformedMessageError, OpcodError, UnavailableError
from shared.obs.faults import fault_point

IDLE_S = 0.1
"""Longest wait for a job; people wait for it too."""

RETRY_S = 0.5
"""Pause before the next try while the bus does not answer."""

NOTHING_NEW = frozenset({EngineState.AWAY, EngineState.SUSPECT})
"""No job is taken or started, and no version loaded, until the engine is known to be there. People are still told."""

SECONDS_PER_TOKEN = 1.0
"""A decoding step of a full batch that takes longer than this means a stuck engine."""

log = structlog.get_logger()

ReadyJob = tuple[HeldJob, JobInput, list[GenerationRequest]]


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
    ) -> None:
        self._engine = engine
        self.intake = intake
        self._versions = versions
        self._outbox = outbox
        self._interactive = interactive
        self._board = board
        self._running = running
        self._clock = clock
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
        answered = self._answer_people()
        try:
            self._connect()
            idle_s = 0.0 if answered else IDLE_S
            if state in NOTHING_NEW:
                self._stopping.wait(idle_s)
            else:
                self._keep_in_step(idle_s)
            self._run_next_group()
            self._outbox.flush()
        except EngineAwayError as error:
            log.warning("the engine is away", error=str(error))
            self._stopping.wait(RETRY_S)
        except UnavailableError as error:
            self._bus_away(error)
        self._board.free_slots = self.intake.free_slots

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
        return {job.version for job in self.intake.jobs} | self._interactive.versions()

    def _bus_away(self, error: UnavailableError) -> None:
        if isinstance(error, EngineDeadError):
            raise error
        if self._board.bus_problem is None:
            log.warning("the bus does not answer", error=str(error))
        self._board.bus_problem = str(error)
        self._connected = False
        self._stopping.wait(RETRY_S)

    def _check_health(self) -> EngineState:
        health = self._engine.health()
        well = health.state in (EngineState.READY, EngineState.SUSPECT)
        self._board.engine_problem = None if well else health.detail
        if health.state is EngineState.DEAD:
            raise EngineDeadError(f"the engine cannot go on: {health.detail}; restart this student")
        return health.state

    # Jobs ------------------------------------------------------------------------------------------------
    def _run_next_group(self) -> None:
        group = self.intake.next_group()
        if not group:
            return
        try:
            self._versions.ensure(group[0].job.version)
        except VersionRefusedError as error:
            for held in group:
                self.intake.refuse(held, describe(error))
            return
        ready = self._ready(group)
        if ready:
            self._announce(ready)
            self._generate(ready)

    def _ready(self, group: Sequence[HeldJob]) -> list[ReadyJob]:
        ready: list[ReadyJob] = []
        for held, prompts in self.intake.inputs(group):
            try:
                ready.append((held, prompts, requests_for(held.job, prompts)))
            except MalformedMessageError as error:
                self.intake.fail(held, describe(error))
        return ready

    def _announce(self, ready: Sequence[ReadyJob]) -> None:
        for held, _, _ in ready:
            if held.job.kind is JobKind.FEEDBACK:
                self.intake.announce_start(held)
        self._outbox.flush()

    def _generate(self, ready: Sequence[ReadyJob]) -> None:
        batches = [requests for _, _, requests in ready]
        metrics.BATCH_SEQUENCES.observe(sum(map(len, batches)))
        self._board.free_slots = self.intake.free_slots
        cancelled = self._running.begin([held.lost for held, _, _ in ready])
        try:
            results, seconds = self._timed(batches, cancelled)
        except GenerationCancelledError:
            log.warning("generation cancelled", jobs=[held.job.id for held, _, _ in ready])
            return
        finally:
            self._running.end(cancelled)
        fault_point("student.generated")
        metrics.BATCH_SECONDS.observe(seconds)
        tokens = sum(_tokens(result) for result in results)
        for (held, prompts, _), result in zip(ready, results, strict=True):
            if isinstance(result, Failure):
                self.intake.fail(held, result.text)
            else:
                self.intake.complete(held, prompts, result, seconds * _tokens(result) / max(tokens, 1))

    def _timed(
        self, batches: Sequence[Sequence[GenerationRequest]], cancelled: threading.Event | None
    ) -> tuple[list[list[Generation] | Failure], float]:
        """Results, and the engine's seconds. Raises EngineDeadError: a dead engine is no fault of the jobs."""
        self._board.beat(allowance_s=self._allowance_s(batches))
        started_s = self._clock.monotonic_s()
        results, again = generate_each(self._engine, batches, cancelled)
        if again:
            metrics.BATCH_RETRIES.inc()
        if any(isinstance(result, Failure) for result in results):
            self._check_health()
        return results, self._clock.monotonic_s() - started_s

    def _allowance_s(self, batches: Sequence[Sequence[GenerationRequest]]) -> float:
        """Longest that these may take, with one more run of each alone."""
        if all(request.audience is not None for batch in batches for request in batch):
            return ANSWER_SILENCE_S  # people may ask for as much as the model holds; each piece is a sign of life
        longest = max(request.sampling.max_tokens for batch in batches for request in batch)
        turns = -(-sum(map(len, batches)) // self._engine.slots) + len(batches)
        return longest * turns * SECONDS_PER_TOKEN

    # People ----------------------------------------------------------------------------------------------
    def _answer_people(self) -> bool:
        """Answer what waits, up to a batch; whether there was anything."""
        questions = self._interactive.take(self._engine.slots)
        questions.sort(key=lambda question: question.version)
        for version, group in groupby(questions, key=lambda question: question.version):
            people = list(group)
            metrics.ANSWERING.set(sum(len(question.requests) for question in people))
            self._answer(version, people)
            metrics.ANSWERING.set(0)
        return bool(questions)

    def _answer(self, version: str, questions: Sequence[Inquiry]) -> None:
        if version not in self._engine.versions():
            gone = UnknownVersionError(f"{version} was unloaded meanwhile; ask /v1/models what is there")
            for question in questions:
                question.answer.set_exception(gone)
            return
        cancelled = self._running.begin(())
        try:
            results, _ = self._timed([question.requests for question in questions], cancelled)
        except GenerationCancelledError:
            results = [Failure(UnavailableError("this student is shutting down; ask again")) for _ in questions]
        except EngineDeadError as error:
            for question in questions:
                question.answer.set_exception(error)
            raise
        finally:
            self._running.end(cancelled)
        for question, result in zip(questions, results, strict=True):
            self._deliver(question, result)

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

    def _drain(self) -> None:
        self._board.draining = True
        self._interactive.close()
        self.intake.release()
        try:
            self._outbox.flush()
        except UnavailableError as error:
            log.warning("left unsaid; it is taken again after its lease", actions=len(self._outbox), error=str(error))


def _tokens(result: list[Generation] | Failure) -> int:
    return 0 if isinstance(result, Failure) else sum(len(generation.token_ids) for generation in result)
