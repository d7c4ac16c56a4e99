"""By what the tokens of a traced answer are coloured: a few figures of a trace, each in steps of its own. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.contracts.traces import HEAT_NATS, TokenTrace

SURPRISE_NATS = (0, 0.1, 0.3, 1, 3, 6)
ENTROPY_NATS = (0, 0.03, 0.1, 0.3, 1, 2)
"""A tuned model is all but sure of most tokens, with a median of 0.003; 2 nats are a choice of seven."""
MINUS = "its minus left out; 0 where it is sure of this token"
LEAST_WEIGHT = 1e-9
"""A weight of 0 has no logarithm; so small a one is of the strongest colour anyway."""

Colour = Literal["divergence", "weight", "entropy", "student", "teacher"]


@dataclass(frozen=True)
class Measure:
    """value: nats, of which `edges` has where each of the six steps begins; NaN where the trace has none of it.
    meaning: of a value, in words."""

    name: Colour
    title: str
    meaning: str
    edges: tuple[float, ...]
    value: Callable[[TokenTrace], float]

    def step(self, token: TokenTrace) -> int:
        return sum(self.value(token) >= edge for edge in self.edges[1:])

    @property
    def steps(self) -> list[tuple[float, float | None]]:
        return list(zip(self.edges, [*self.edges[1:], None], strict=True))


_ALL = (
    Measure("divergence", "divergence", "between student and self-teacher", HEAT_NATS, lambda each: each.divergence),
    Measure(
        "weight",
        "importance weight",
        "its logarithm, of either sign; 0 where trainer and engine agree",
        HEAT_NATS,
        lambda each: abs(math.log(max(each.weight, LEAST_WEIGHT))),
    ),
    Measure(
        "entropy",
        "entropy",
        "of what the student might say; 0 where it is sure",
        ENTROPY_NATS,
        lambda each: math.nan if each.student_entropy is None else each.student_entropy,
    ),
    Measure("student", "student log-prob", MINUS, SURPRISE_NATS, lambda each: abs(each.student_logprob)),
    Measure("teacher", "self-teacher log-prob", MINUS, SURPRISE_NATS, lambda each: abs(each.teacher_logprob)),
)
MEASURES: Mapping[Colour, Measure] = {measure.name: measure for measure in _ALL}


def measures_of(tokens: Sequence[TokenTrace]) -> dict[Colour, Measure]:
    """Those that the trace has of each of these; divergence is always there."""
    return {
        name: measure
        for name, measure in MEASURES.items()
        if name == "divergence" or not any(math.isnan(measure.value(token)) for token in tokens)
    }
