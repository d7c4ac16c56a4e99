"""When what of a step was done, and by whom: the newest steps as bars on lanes over one axis of time. Pure.

Events tell when something has ended; that it began follows from what had to be there before it.

| work | lane | from | to |
|---|---|---|---|
| rollout | the student's engine | its turn to train begins, or its version before serves | its last group is graded |
| feedback | the tutor's engine | the first of the groups it speaks of is graded | its last feedback is given |
| revise | the student's engine | the first feedback is given | the last new answer is there |
| train | the student's trainer | its own seconds before the end, and after the first group | the step is applied |
| swap | the student's engine | the step is applied | the last replica serves its version |
| evaluate | each student's engine | the round is over | its last score is there |
| wait | every lane | between two of them | |

What is under way is not drawn before something of it has ended.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from shared.contracts.events import (
    BatchReady,
    Evaluated,
    Event,
    FeedbackGiven,
    GroupGraded,
    Revised,
    StatusChanged,
    StepApplied,
    VersionServing,
)
from shared.contracts.ids import parse_version
from shared.contracts.messages import Contract

Work = Literal["rollout", "feedback", "revise", "train", "swap", "evaluate", "wait"]
WORKS: tuple[Work, ...] = get_args(Work)


class WorkBar(Contract):
    """begin, end: seconds since the epoch. student, step: for whose step; of an evaluation there is no step, and a wait
    is for nobody's."""

    lane: str
    work: Work
    begin: float
    end: float
    student: str | None = None
    step: int | None = None

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class StepTimeline(Contract):
    """lanes: names of services, students' engines first."""

    begin: float
    end: float
    lanes: tuple[str, ...]
    bars: tuple[WorkBar, ...]

    def of_lane(self, lane: str) -> list[WorkBar]:
        return [bar for bar in self.bars if bar.lane == lane]


@dataclass
class StepTimes:
    """What was told of one step so far. opened: seconds since the epoch. graded, revised: by problem; feedback: by
    problem and tutor; served: by the last replica."""

    student: str
    step: int
    opened: float
    graded: dict[str, GroupGraded] = field(default_factory=dict)
    feedback: dict[tuple[str, str], FeedbackGiven] = field(default_factory=dict)
    revised: dict[str, Revised] = field(default_factory=dict)
    sealed: BatchReady | None = None
    applied: StepApplied | None = None
    served: VersionServing | None = None


class Steps:
    """Fed the events of one run in order. open: those whose version nobody serves yet. sequential: one student trains
    after the other."""

    def __init__(self, *, sequential: bool = False) -> None:
        self._sequential = sequential
        self.open: dict[tuple[str, int], StepTimes] = {}
        self._last: dict[str, StepTimes] = {}
        self._swapping: set[str] = set()
        self._free_since: dict[str, float] = {}
        self._done_at: dict[str, float] = {}
        self._training_since = 0.0
        self._status = ""

    def feed(self, event: Event) -> StepTimes | None:
        """The step that this event ends, if it does: the first replica serves its version."""
        match event:
            # The same word again tells of a pause, its end, or a replica that is taken back: nothing begins then.
            case StatusChanged() if event.status != self._status:
                self._status = event.status
                self._swapping.clear()
                if event.status == "TRAINING":
                    self._training_since = event.at
            case GroupGraded():
                self._step(event).graded[event.problem_id] = event
            case FeedbackGiven():
                self._step(event).feedback[event.problem_id, event.tutor] = event
            case BatchReady():
                self._step(event).sealed = event
            case StepApplied():
                self._step(event).applied = event
            case Revised():
                # Never the first word of a step, and it may come after its version is served.
                found = self.open.get((event.student, event.step)) or self._last.get(event.student)
                if found is not None and found.step == event.step:
                    found.revised[event.problem_id] = event
                    self._done(event)
            case VersionServing():
                return self._served(event)
        return None

    def _step(self, event: GroupGraded | FeedbackGiven | BatchReady | StepApplied) -> StepTimes:
        """It began when its student had nothing else to do: the version before was served, or training began; where
        students take turns, not before whoever trained before had its last version served and its last revision."""
        key = event.student, event.step
        if key not in self.open:
            # Whoever serves the version before from now on was not waited for.
            self._swapping.discard(event.student)
            # A log that was cut may lack both; the step then begins with the first of its events.
            own = max(self._training_since, self._free_since.get(event.student, 0.0))
            before = [at for student, at in self._done_at.items() if self._sequential and student != event.student]
            self.open[key] = StepTimes(*key, min(max(own, *before, 0.0) or event.at, event.at))
        return self.open[key]

    def _served(self, event: VersionServing) -> StepTimes | None:
        key = event.student, parse_version(event.version)[1]
        found = self.open.get(key)
        if found is not None and found.sealed is not None and found.applied is not None:
            self._last[event.student] = self.open.pop(key)
            self._swapping.add(event.student)
            self._end(found, event)
            return found
        # By a further replica, or told once more by the broker.
        if event.student in self._swapping and self._last[event.student].step == key[1]:
            self._end(self._last[event.student], event)
        return None

    def _end(self, step: StepTimes, served: VersionServing) -> None:
        step.served, self._free_since[step.student] = served, served.at
        self._done(served)

    def _done(self, event: VersionServing | Revised) -> None:
        self._done_at[event.student] = max(event.at, self._done_at.get(event.student, 0.0))


def timeline(
    events: Sequence[Event], students: Sequence[str], *, steps: int, sequential: bool = False
) -> StepTimeline | None:
    """From the newest `steps` of each student on, so that where they take turns there may be more of others between;
    None while nothing is done.

    events: in the order of the log, from somewhat before those steps on. sequential: one student trains after another.
    """
    lanes = [*map(engine_of, students), *map(trainer_of, students)]
    told = (*_steps(events, sequential), *_evaluations(events))
    drawn = [bar for bar in told if bar.lane in lanes and bar.seconds > 0]
    begin = _begin(drawn, [event for event in events if isinstance(event, StepApplied)], steps)
    drawn = [bar.model_copy(update={"begin": max(bar.begin, begin)}) for bar in drawn if bar.end > begin]
    if not drawn:
        return None
    waits = [wait for lane in lanes for wait in _waits(lane, [bar for bar in drawn if bar.lane == lane])]
    bars = sorted((*drawn, *waits), key=lambda bar: (lanes.index(bar.lane), bar.begin, bar.end))
    return StepTimeline(begin=begin, end=max(bar.end for bar in bars), lanes=tuple(lanes), bars=tuple(bars))


def _begin(bars: Sequence[WorkBar], applied: Sequence[StepApplied], steps: int) -> float:
    """Where the newest `steps` of each student begin; the first bar where nobody has more of them."""
    ends: dict[str, list[float]] = {}
    for event in applied:
        ends.setdefault(event.student, []).append(event.at)
    if all(len(each) <= steps for each in ends.values()):
        return min((bar.begin for bar in bars), default=0.0)
    return min(
        each[-steps - 1]
        if len(each) > steps
        else min((bar.begin for bar in bars if bar.student == student and bar.step is not None), default=each[0])
        for student, each in ends.items()
    )


def seconds_by_lane(found: StepTimeline) -> dict[str, dict[Work, float]]:
    """Of each lane, seconds at each kind of work, that of several bars at once once."""
    return {
        lane: {
            work: sum(end - begin for begin, end in _union(bar for bar in found.of_lane(lane) if bar.work == work))
            for work in WORKS
        }
        for lane in found.lanes
    }


def engine_of(student: str) -> str:
    """The service whose engine has this student."""
    return f"student-{student}"


def trainer_of(student: str) -> str:
    return f"trainer-{student}"


def _steps(events: Sequence[Event], sequential: bool) -> Iterator[WorkBar]:
    told = Steps(sequential=sequential)
    ended = [step for event in events if (step := told.feed(event)) is not None]
    for step in (*ended, *told.open.values()):
        yield from _bars(step)


def _bars(step: StepTimes) -> Iterator[WorkBar]:
    def bar(lane: str, work: Work, begin: float, end: float) -> WorkBar:
        return WorkBar(lane=lane, work=work, begin=begin, end=end, student=step.student, step=step.step)

    engine = engine_of(step.student)
    graded = {problem: event.at for problem, event in step.graded.items()}
    given = {key: event.at for key, event in step.feedback.items()}
    revised = [event.at for event in step.revised.values()]
    if graded:
        yield bar(engine, "rollout", step.opened, max(graded.values()))
    for tutor in sorted({tutor for _, tutor in given}):
        told = {problem: at for (problem, by), at in given.items() if by == tutor}
        asked = min(graded.get(problem, at) for problem, at in told.items())
        yield bar(engine_of(tutor), "feedback", asked, max(told.values()))
    if given and revised:
        yield bar(engine, "revise", min(given.values()), max(revised))
    if step.applied is not None:
        applied = step.applied.at
        # A stage that ends after its step was told (the checkpoint) is counted with the next one, which may so seem
        # longer than it was.
        begin = applied - sum(step.applied.metrics.seconds.values())
        yield bar(trainer_of(step.student), "train", max(begin, min(graded.values(), default=begin)), applied)
        if step.served is not None:
            yield bar(engine, "swap", applied, step.served.at)


def _evaluations(events: Iterable[Event]) -> Iterator[WorkBar]:
    """One for each student between two stretches of training."""
    since: float | None = None
    status = ""
    ends: dict[tuple[str, float], float] = {}
    for event in events:
        if isinstance(event, StatusChanged):
            if event.status != status:  # as in `Steps.feed`
                since = event.at if event.status in ("VALIDATING", "FINAL_EVAL") else None
            status = event.status
        elif isinstance(event, Evaluated) and since is not None:
            ends[event.student, since] = event.at
    for (student, begin), end in ends.items():
        yield WorkBar(lane=engine_of(student), work="evaluate", begin=begin, end=end, student=student)


def _waits(lane: str, bars: Sequence[WorkBar]) -> Iterator[WorkBar]:
    """What lies between two pieces of work; before the first and after the last one nothing is known."""
    busy = list(_union(bars))
    for (_, end), (begin, _) in pairwise(busy):
        yield WorkBar(lane=lane, work="wait", begin=end, end=begin)


def _union(bars: Iterable[WorkBar]) -> Iterator[tuple[float, float]]:
    """Stretches in which there is one of the bars, in order; none touches the next."""
    begin = end = None
    for bar in sorted(bars, key=lambda bar: bar.begin):
        if begin is None or end is None or bar.begin > end:
            if begin is not None and end is not None:
                yield begin, end
            begin, end = bar.begin, bar.end
        end = max(end, bar.end)
    if begin is not None and end is not None:
        yield begin, end
