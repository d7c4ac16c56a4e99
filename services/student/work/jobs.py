"""The jobs in this student's hands: taken from the queues, kept by their leases, ended exactly once.

What always holds: a job in hand is completed, failed, dead-lettered, released, handed over, or lost to another replica.
What is announced about it goes through the outbox, so an outage of the bus delays it and loses nothing.

- `Outbox`: what is still to be told to the bus, in order.
- `Room`: how much work is taken at once.
- `next_replica`: who gets a job whose version cannot be loaded here.
- `JobIntake`: takes jobs, says which run next, and ends them.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from zlib import crc32

import structlog

from services.student import metrics
from services.student.engines.port import Generation
from services.student.work.duty import Duties, of_one_version
from services.student.work.generation import describe, output_of
from shared.bus.keys import RESULTS, group_of, jobs, output_field
from shared.bus.leases import LeaseKeeper
from shared.bus.payloads import pack, unpack
from shared.bus.port import Bus, Delivery
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JOB_PRIORITY, Job, JobDone, JobInput, JobKind, JobOutput, JobStarted, PayloadRef
from shared.errors import MalformedMessageError, StorageError
from shared.obs.faults import fault_point

Action = Callable[[], None]


class Outbox:
    """What this student has to tell the bus and could not yet: finished jobs survive an outage of Redis.

    Actions run in the order in which they were put, each until it succeeded once. They must be safe to run twice, as
    the bus's answer may be lost after the effect. Used by the engine's thread alone.
    """

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()

    def __len__(self) -> int:
        return len(self._actions)

    def put(self, action: Action) -> None:
        self._actions.append(action)

    def flush(self) -> None:
        """Run what waits. Raises UnavailableError where the bus does not answer; that action and the rest stay."""
        while self._actions:
            # Taken off only when it succeeded: where it raises, it is the first again next time.
            self._actions[0]()
            self._actions.popleft()


class Room:
    """How much work is in hand at once, in sequences. Pure.

    - The first job is always taken, however large: the engine runs more sequences than it has slots in turns.
    - Further jobs of the lower kinds are taken while they fit into the slots.
    - Feedback has room for one more job beyond the slots. The peer waits for feedback while this student's own rollouts
      fill every slot, so a feedback job that comes while a batch is filled, or between two batches, never waits for a
      later one. Slots that are kept empty for it would only make every batch smaller, since nothing joins a static
      batch that runs.

    How large the next job of a kind is, is guessed from the last one seen.
    """

    def __init__(self, slots: int, expected: dict[JobKind, int]) -> None:
        self.slots = slots
        self._expected = dict(expected)

    def seen(self, job: Job) -> None:
        self._expected[job.kind] = job.sequences

    def fits(self, kind: JobKind, held: Sequence[Job], finished: int = 0, *, beyond: bool = True) -> bool:
        """Whether one more job of `kind` belongs into the batch that `held` makes up, less the sequences `finished`.

        beyond: with the room that feedback has beyond the slots.
        """
        # However large: an evaluation may have more sequences than there are slots, and is run in turns.
        if not held:
            return True
        size = self._expected[kind]
        extra = size if beyond and kind is JobKind.FEEDBACK else 0
        return used(held) - finished + size <= self.slots + extra

    def free(self, held: Sequence[Job], finished: int = 0) -> int:
        return max(0, self.slots - used(held) + finished)


def used(held: Sequence[Job]) -> int:
    return sum(job.sequences for job in held)


def consumer_name(student: str, replica: str) -> str:
    """Of a replica on its student's queues."""
    return f"student-{student}-{replica}"


def next_replica(job: Job, beats: Sequence[Heartbeat], refused_by: Collection[str]) -> str | None:
    """Consumer name of the replica that gets a job whose version this one cannot load; None: nobody is left. Pure.

    It is up and not in `refused_by`, so that a job goes round once at most. One that holds the version
    already is preferred. Jobs are spread by their ids.
    """
    up = {
        consumer_name(job.student, beat.replica): job.version in beat.versions
        for beat in beats
        if beat.service == f"student-{job.student}" and beat.state != "draining"
    }
    left = sorted(name for name in up if name not in refused_by)
    # By a checksum of the id and not hash(), which is salted in each process: all replicas must choose alike.
    choice = [name for name in left if up[name]] or left
    return choice[crc32(job.id.encode()) % len(choice)] if choice else None


GATHER_S = 0.03
"""Jobs of a step come in a burst. A batch that starts with the first of them leaves the rest to another one, which
takes about as long: measured on one core, 72 sequences of 16 tokens 1.1 s at once, 2.6 s as 48 and then 24."""

LOAD_TRIES = 4
"""Of a version that a job names, before the job fails: with the pauses between them half a minute, in which a mount may
come back. A feedback that fails is lost for good."""

log = structlog.get_logger()


@dataclass(eq=False)
class HeldJob:
    """A job in hand. lost: set when its lease is not ours any more. losses: how often the engine was lost under it.
    refusals: of its version, when nobody else was there to load it and it was kept."""

    delivery: Delivery
    job: Job
    lost: Event
    losses: int = 0
    refusals: int = 0


class JobIntake:
    """Takes jobs as far as there is room, says which run next, and ends them. Used by the engine's thread alone.

    continuous: whether jobs may join those that run; `Room`'s rule then holds at every moment, not batch by batch.
    finished: sequences of jobs under way that have left their place. duties: of a replica whose engine, a continuous
    one, holds one version at a time while others of the student keep another.
    """

    def __init__(
        self,
        *,
        student: str,
        replica: str,
        bus: Bus,
        outbox: Outbox,
        leases: LeaseKeeper,
        room: Room,
        max_attempts: int,
        continuous: bool,
        finished: Callable[[], int],
        duties: Duties | None = None,
    ) -> None:
        self.held: list[HeldJob] = []
        self._student = student
        self._replica = replica
        self._bus = bus
        self._outbox = outbox
        self._leases = leases
        self._room = room
        self._max_attempts = max_attempts
        self._continuous = continuous
        self._finished = finished
        self._duties = duties
        self._queues = {kind: (jobs(student, kind), group_of(jobs(student, kind))) for kind in JOB_PRIORITY}

    @property
    def jobs(self) -> list[Job]:
        return [held.job for held in self.held]

    @property
    def free_slots(self) -> int:
        return self._room.free(self.jobs, self._finished())

    def create_queues(self) -> None:
        """Also the one that is answered on: a student is ready, and reports, before its broker is up."""
        for queue, group in (*self._queues.values(), (RESULTS, group_of(RESULTS))):
            self._bus.create_queue(queue, group)

    def take(self, block_s: float) -> None:
        """Fill the hands: a whole batch when they are empty, else only feedback, or, where jobs may join those that
        run, whatever fits. Raises UnavailableError.

        Waits up to `block_s` when nothing at all is there.
        """
        kinds = JOB_PRIORITY if self._duties is None else self._duties.kinds(self.jobs)
        if self.held:
            self._fill(kinds if self._continuous else (JobKind.FEEDBACK,), 0.0)
        elif self._take(kinds, block_s):
            self._fill(kinds, 0.0 if self._continuous else GATHER_S)

    def groups(self, under_way: Collection[HeldJob], waits: Callable[[HeldJob], bool]) -> list[list[HeldJob]]:
        """What may start now of the jobs in hand that are not under way, each group as one batch. Lost ones are let go.
        waits: for a version that is not to be tried yet.

        The most urgent first, each alone; or, of an engine that runs a batch to its end, only one group: all of the
        most urgent one's version.
        """
        waiting = [held for held in self._waiting(under_way) if not waits(held)]
        if self._duties is not None:
            waiting = of_one_version(waiting, under_way)
        if self._continuous or not waiting:
            return [[held] for held in waiting]
        version = waiting[0].job.version
        # In the order in which they were taken, not by urgency: the order decides their rows in the batch.
        return [[held for held in self.held if held.job.version == version]]

    def inputs(self, group: Sequence[HeldJob]) -> list[tuple[HeldJob, JobInput]]:
        """Each job with its input; a job without a usable one fails. Raises UnavailableError."""
        found = []
        for held in group:
            try:
                data = self._bus.get_payload(held.job.input)
                found.append((held, unpack(held.job.input, data, JobInput)))
            except (StorageError, MalformedMessageError) as error:
                self.fail(held, describe(error))
        return found

    def announce_start(self, held: HeldJob) -> None:
        """Tell the broker that the generation begins: a tutor's deadline counts from here."""
        started = JobStarted(
            job_id=held.job.id, student=self._student, replica=self._replica, attempt=held.delivery.attempt
        )
        self._outbox.put(partial(self._publish, started))

    def complete(self, held: HeldJob, prompts: JobInput, generations: Sequence[Generation], seconds: float) -> None:
        """End the job with its output; `seconds` is its share of the engine's time."""
        output = output_of(held.job, prompts, generations)
        # Packed now and not in the outbox: it must be the same bytes however often sending is tried.
        payload = pack(output, held.job.input.key, output_field(held.job.id))
        metrics.TOKENS.labels(held.job.kind.value).inc(_output_tokens(output))
        done = self._done(held.job, output=payload[0], outcome="ok", seconds=seconds, counted=output)
        self._end(held, partial(self._send_output, held, done, payload))

    def fail(self, held: HeldJob, error: str) -> None:
        """End the job with an error; the broker decides what follows."""
        log.error("job failed", job=held.job.id, version=held.job.version, error=error)
        self._end(held, partial(self._send_output, held, self._done(held.job, outcome="failed", error=error), None))

    def refuse(self, held: HeldJob, error: str, refusals: int) -> None:
        """This replica cannot load the job's version: another one gets it. Where every one that is up has refused it,
        the job is kept, and fails once this one has refused it LOAD_TRIES times. Raises UnavailableError."""
        refused_by = {*held.delivery.refused_by, self._consumer}
        other = next_replica(held.job, self._bus.heartbeats(), refused_by)
        if other is None:
            # Not one that came just now: a run that is resumed has the version tried anew, but first in the next turn.
            if refusals >= LOAD_TRIES and held.refusals:
                self.fail(held, error)
                return
            held.refusals = refusals
            log.warning("job waits for its version", job=held.job.id, version=held.job.version, refusals=refusals)
            return
        log.warning("job handed over", job=held.job.id, version=held.job.version, to=other, error=error)
        self._end(held, partial(self._hand_over, held, other))

    def release(self) -> None:
        """Give everything in hand back at once, without counting the attempt."""
        for held in self.held:
            self._release(held)
        self.held.clear()

    def _waiting(self, under_way: Collection[HeldJob]) -> list[HeldJob]:
        waiting = [held for held in self.held if held not in under_way]
        for held in waiting:
            if held.lost.is_set():
                self._drop_lost(held)
        left = [held for held in waiting if held in self.held]
        return sorted(left, key=lambda held: JOB_PRIORITY.index(held.job.kind))

    def _fill(self, kinds: Sequence[JobKind], gather_s: float) -> None:
        """Take while there is room and jobs come less than `gather_s` apart. Once the slots are full nothing is waited
        for: feedback that is there already still finds its room beyond them."""
        while fitting := self._fitting(kinds):
            full = not self._fitting(fitting, beyond=False)
            if not self._take(fitting, 0.0 if full else gather_s):
                return

    def _fitting(self, kinds: Sequence[JobKind], *, beyond: bool = True) -> list[JobKind]:
        finished = self._finished()
        return [kind for kind in kinds if self._room.fits(kind, self.jobs, finished, beyond=beyond)]

    def _take(self, kinds: Sequence[JobKind], block_s: float) -> bool:
        queues = [self._queues[kind] for kind in kinds]
        # One at a time: how many sequences the next one has is known only when it is here.
        taken = self._bus.take(queues, self._consumer, limit=1, block_s=block_s)
        for delivery in taken:
            self._accept(delivery)
        return bool(taken)

    @property
    def _consumer(self) -> str:
        return consumer_name(self._student, self._replica)

    def _accept(self, delivery: Delivery) -> None:
        job = delivery.message
        if not isinstance(job, Job) or job.student != self._student:
            reason = f"expected a Job for student {self._student}, got {type(job).__name__} {job.key}"
            self._outbox.put(partial(self._send_dead, delivery, reason, None))
        elif delivery.attempt > self._max_attempts:
            # What ended a process this often would end the next one too.
            reason = f"started {delivery.attempt - 1} times without an end; the limit is {self._max_attempts}"
            done = self._done(job, outcome="failed", error=reason)
            self._outbox.put(partial(self._send_dead, delivery, reason, done))
        else:
            self._room.seen(job)
            self.held.append(HeldJob(delivery, job, self._leases.hold(delivery)))
            fault_point("student.job-taken")

    def _drop_lost(self, held: HeldJob) -> None:
        metrics.JOBS.labels(held.job.kind.value, "lost").inc()
        log.warning("lease lost, results dropped", job=held.job.id, attempt=held.delivery.attempt)
        self.held.remove(held)
        self._release(held)

    def _release(self, held: HeldJob) -> None:
        """The bus wants every delivery ended; releasing one that is not ours changes nothing for its owner."""
        self._leases.drop(held.delivery)
        self._outbox.put(partial(self._bus.release, held.delivery))

    def _end(self, held: HeldJob, send: partial[None]) -> None:
        """Out of the hands; the lease is kept until the bus has heard of it."""
        if held.lost.is_set():
            self._drop_lost(held)
            return
        # The lease lives on until `send` succeeded: in an outage nobody else shall begin what is already done.
        self.held.remove(held)
        self._outbox.put(send)

    def _done(
        self,
        job: Job,
        *,
        outcome: str,
        error: str | None = None,
        output: PayloadRef | None = None,
        seconds: float = 0.0,
        counted: JobOutput | None = None,
    ) -> JobDone:
        return JobDone(
            job_id=job.id,
            kind=job.kind,
            student=self._student,
            replica=self._replica,
            outcome="ok" if outcome == "ok" else "failed",
            error=error,
            version=job.version,
            output=output,
            seconds=seconds,
            prompt_tokens=sum(len(p.prompt_token_ids) for p in counted.prompts) if counted else 0,
            output_tokens=_output_tokens(counted) if counted else 0,
        )

    # Outbox actions --------------------------------------------------------------------------------------
    def _publish(self, message: JobStarted) -> None:
        self._bus.publish(RESULTS, message)

    def _send_output(self, held: HeldJob, done: JobDone, payload: tuple[PayloadRef, bytes] | None) -> None:
        fault_point("student.before-complete")
        # Output, announcement and the end of the delivery in one step of the bus: a crash leaves all of them or none.
        ours = self._bus.complete(held.delivery, announce=(RESULTS, done), payload=payload)
        fault_point("student.after-complete")
        self._leases.drop(held.delivery)
        metrics.JOBS.labels(done.kind.value, done.outcome if ours else "late").inc()
        log.info("job ended", job=done.job_id, outcome=done.outcome, ours=ours, version=done.version)

    def _hand_over(self, held: HeldJob, other: str) -> None:
        self._bus.hand_over(held.delivery, other)
        self._leases.drop(held.delivery)
        metrics.JOBS.labels(held.job.kind.value, "handed-over").inc()

    def _send_dead(self, delivery: Delivery, reason: str, done: JobDone | None) -> None:
        self._bus.dead_letter(delivery, reason, announce=(RESULTS, done) if done else None)
        if done is not None:
            metrics.JOBS.labels(done.kind.value, "exhausted").inc()
        log.error("dead letter", job=delivery.message.key, queue=delivery.queue, reason=reason)


def _output_tokens(output: JobOutput) -> int:
    return sum(len(sample.token_ids) for prompt in output.prompts for sample in prompt.samples)
