"""The numbers that events bring to a tracker of experiments. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shared.contracts.events import (
    AlarmRaised,
    BatchReady,
    Evaluated,
    Event,
    GateDecided,
    Revised,
    StepApplied,
)
from shared.contracts.ids import parse_version


@dataclass(frozen=True)
class Figures:
    """values: by `<student>/<what>`, and by `gate/<tutor>/…`, of more than two students `gate/<tutor>-<tutee>/…`.

    at: where on the axis they stand, a step of that student, and a round of the gate; it is the first of the values, as
    `<student>/step` or `gate/round`.
    """

    at: int
    values: Mapping[str, float]


def figures(event: Event) -> Figures | None:
    """None for events that bring none."""
    match event:
        case StepApplied(student=student, metrics=metrics):
            plain = {name: float(value) for name, value in metrics if isinstance(value, int | float)}
            stages = {f"seconds/{stage}": seconds for stage, seconds in metrics.seconds.items()}
            return _of(student, event.step, plain | stages)
        case BatchReady(student=student):
            kept = event.kept_feedback / event.samples if event.samples else 0.0
            return _of(student, event.step, {"mean_reward": event.mean_reward, "feedback_share": kept})
        case Evaluated(student=student, split=split):
            scores = {f"{split}/{domain}": score for domain, score in event.scores.items()}
            return _of(student, parse_version(event.version)[1], scores)
        case GateDecided(decision=decision):
            pairs = decision.named_pairs("-")
            gaps = {f"gate/{name}/gap": pair.gap for name, pair in pairs.items()}
            yes = {f"gate/{name}/cognizant": float(pair.cognizant) for name, pair in pairs.items()}
            return Figures(decision.round, {"gate/round": float(decision.round), **gaps, **yes})
        case AlarmRaised(student=student, alarm=alarm):
            return _of(student, event.step, {f"alarm_{alarm}": 1.0})
    return None


class ChangedAnswers:
    """What feedback did to the answers of each step of each student, counted until it is asked for."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counter[str]] = {}
        self._new: set[tuple[str, int]] = set()

    def take(self, event: Revised) -> None:
        """Without those whose prompt held no feedback."""
        if event.told:
            of = (event.student, event.step)
            self._new.add(of)
            self._counts.setdefault(of, Counter())[event.change] += 1

    def figures(self, student: str, until: int) -> Iterator[Figures]:
        """Of the steps up to that one which were answered again since they were asked for last: how many answers were
        fixed, broke and stayed the same."""
        for of in sorted(of for of in self._new if of[0] == student and of[1] <= until):
            self._new.remove(of)
            counts = self._counts[of]
            yield _of(*of, {f"revised_{change}": float(counts[change]) for change in ("fixed", "broke", "same")})


def _of(student: str, step: int, values: Mapping[str, float]) -> Figures:
    return Figures(step, {f"{student}/{name}": value for name, value in {"step": float(step), **values}.items()})
