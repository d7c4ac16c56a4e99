"""What the broker looks after beside the reports that come in.

- `Replicas`: which replicas of a student are up, and whether enough of them hold a version.
- `disagreement`: whether a student's replicas and its trainer turn messages into the same token ids. If they did not,
  the self-teacher would judge tokens of other prompts than those that were answered.
- `sweep_payloads`: drops payloads that were left over.
- `VersionRetention`: deletes the tensors of versions that the run's settings do not keep.
- `watch_queues`: how much waits in the run's queues, for the metrics; nothing is decided by it.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import structlog

from services.broker import metrics
from services.broker.metrics import DEAD_LETTERS, QUEUED
from shared.bus.keys import eval_payloads, queues_of, step_payloads
from shared.bus.port import Bus
from shared.config.machine import RetentionSection
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import RunState
from shared.errors import OpcodError, StorageError
from shared.files.retention import prune_versions

REFUSED_FOR_GOOD = 2
"""Times that a replica refuses a version before it counts as one that cannot load it: what cannot be read for a moment,
as on a network's disk, costs no pause."""

log = structlog.get_logger()


class Replicas:
    """The replicas of each student, as their heartbeats tell.

    A heartbeat expires when its sender dies, so a dead replica is not counted. Refusals are kept in memory only: after
    a restart of the broker each replica that still refuses a version says so at its next try.
    """

    def __init__(self, settings: RunSettings, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._refused: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def enough(self, student: str, version: str, *, told_by: str | None = None) -> bool:
        """Whether `students.<name>.replicas` of them hold it, or all that are up where those are fewer.

        told_by: a replica that has just said that it holds it; its heartbeat may not say so yet. With the setting's
        default that is enough by itself, and nothing is asked of the bus.
        """
        needed = self._needed(student)
        if told_by is not None:
            del self._refused[student, version][told_by]
        if told_by is not None and needed == 1:
            return True
        beats = self._up(student)
        up = {beat.replica for beat in beats}
        holding = {beat.replica for beat in beats if version in beat.versions}
        # Its word is newer than its heartbeat.
        if told_by is not None:
            up.add(told_by)
            holding.add(told_by)
        # With none up 0 would be enough: at least one must hold it.
        return len(holding) >= max(1, min(needed, len(up)))

    def still_enough(self, student: str, version: str, *, refused_by: str) -> bool:
        """Whether those that are up and may load it yet would be enough to hold it. refused_by: who just did not."""
        refused = self._refused[student, version]
        refused[refused_by] += 1
        up = {beat.replica for beat in self._up(student)} | {refused_by}
        left = {replica for replica in up if refused[replica] < REFUSED_FOR_GOOD}
        return len(left) >= min(self._needed(student), len(up))

    def _needed(self, student: str) -> int:
        # Where replicas keep versions apart the others need not hold it, and which these are changes with who is up.
        return 1 if self._settings.keeps_apart(student) else self._settings.students[student].replicas

    def _up(self, student: str) -> list[Heartbeat]:
        beats = self._bus.heartbeats()
        return [beat for beat in beats if beat.service == f"student-{student}" and beat.state != "draining"]


def disagreement(students: Sequence[str], beats: Sequence[Heartbeat]) -> str | None:
    """Why the run cannot go on, or None. A service whose heartbeat has no `rendering` yet is left out. Pure."""
    for student in students:
        services = (f"student-{student}", f"trainer-{student}")
        known = [beat for beat in beats if beat.service in services and beat.rendering is not None]
        if len({beat.rendering for beat in known}) > 1:
            told = ", ".join(f"{beat.service}/{beat.replica}: {str(beat.rendering)[:8]}" for beat in known)
            return (
                f"expected the same chat template and token ids for student {student} everywhere, got {told}; give its "
                "processes the same model directory, chat_template and package versions, then resume"
            )
    return None


def sweep_payloads(bus: Bus, state: RunState, fence: int) -> None:
    """Drop what no open work needs: outputs that came when their step was over, and what a broker that was killed after
    a commit was about to drop. state: as it is stored.

    Raises UnavailableError, and FencedError where another broker took over meanwhile.
    """
    needed = needed_payloads(state)
    left = [key for key in bus.payload_keys() if key not in needed]
    for key in left:
        bus.drop_payloads(key, fence)
    if left:
        log.info("payloads dropped that were left over", keys=left)


def needed_payloads(state: RunState) -> set[str]:
    """Keys of the payloads of running evaluations, of open steps and of those that revisions are still about. Pure."""
    evaluations = {eval_payloads(each.student, each.round, each.split.value) for each in state.evals}
    steps = {
        step_payloads(phase.student, step)
        for phase in state.phases
        for step in (*phase.kept_steps, *([phase.step.step] if phase.step is not None else []))
    }
    return evaluations | steps


class VersionRetention:
    """Called now and then by the broker, which alone knows what a run needs."""

    def __init__(self, keep: RetentionSection, run_dir: Path, students: Sequence[str]) -> None:
        self._keep = keep
        self._run_dir = run_dir
        self._students = students

    def sweep(self, state: RunState) -> None:
        """Prune what need not stay. A disk that refuses is told and tried again the next time; the run goes on."""
        if self._keep.keep_last == 0:
            return
        for student in self._students:
            try:
                pruned = prune_versions(
                    self._run_dir, state, student, keep_last=self._keep.keep_last, keep_every=self._keep.keep_every
                )
            except (StorageError, OSError) as error:
                metrics.PRUNING_FAILURES.inc()
                log.error("versions could not be pruned", student=student, error=str(error))
                continue
            if pruned:
                log.info("versions pruned", student=student, steps=sorted(pruned), bytes=sum(pruned.values()))


PERIOD_S = 5.0


def watch_queues(bus: Bus, students: tuple[str, ...], stopping: threading.Event) -> None:
    """Until `stopping`; whatever the server says, it is asked again: a run does not hang on being measured."""
    while not stopping.wait(PERIOD_S):
        try:
            show_queues(bus, students)
        except OpcodError as error:
            log.warning("queues not read", error=str(error))


def show_queues(bus: Bus, students: tuple[str, ...]) -> None:
    """Set the gauges once. Raises UnavailableError."""
    for queue, group in queues_of(students):
        waiting, in_hand = bus.queue_depth(queue, group)
        QUEUED.labels(queue, "waiting").set(waiting)
        QUEUED.labels(queue, "in_hand").set(in_hand)
    DEAD_LETTERS.set(len(bus.dead_letters()))
