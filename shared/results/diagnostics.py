"""The diagnostics of a report: what feedback did to answers, verdicts by round, step times, figures of the steps. Pure.

docs/diagnostics.md says what each number means. A rate over nothing is None.
"""

from collections.abc import Mapping, Sequence

from shared.contracts.diagnostics import RevisionCount, StepKind
from shared.contracts.run import GateDecision, RunState
from shared.contracts.weights import StepRecord
from shared.method.metrics import difficulty_bins
from shared.method.silencing import resampling_chance
from shared.results.figures import Part, Rate, breaks, fixes

EVERYTHING = "all"
BINS = ("easiest", "easy", "hard", "hardest")
FIGURES = (
    "loss",
    "grad_norm",
    "delta_logprob",
    "clipped_share",
    "effective_sample_share",
    "active_share",
    "peer_share",
)


class RevisionRates(Part):
    """Break- and fix-rate of one tutee's revisions under one tutor.

    of: all, the tutor's cognizance in that round, or a difficulty bin (bins overlap). told: with the tutor's feedback
    in the prompt; without it is the control. chance: break-rate to expect from answering again.
    """

    student: str
    tutor: str
    of: str
    told: bool
    groups: int
    breaks: Rate
    fixes: Rate
    chance: float | None


class RoundVerdicts(Part):
    student: str
    round: int
    counts: dict[str, int]


class MeanStepTime(Part):
    student: str
    kind: StepKind
    steps: int
    mean_s: float


class Figure(Part):
    """A figure of a student's steps: mean over those that have it, and of the last of them.

    A step without any token to learn from has an active share only.
    """

    student: str
    name: str
    steps: int
    mean: float
    last: float


class Diagnostics(Part):
    """steps: what each step looked like, in order; the figures are taken from them."""

    revisions: list[RevisionRates]
    verdicts: list[RoundVerdicts]
    step_times: list[MeanStepTime]
    figures: list[Figure]
    steps: list[StepRecord]


def diagnose(state: RunState, samples: int, steps: Sequence[StepRecord]) -> Diagnostics:
    """samples: n, rollouts of a group."""
    students = sorted(state.tallies)
    ordered = sorted(steps, key=lambda record: (record.student, record.step))
    return Diagnostics(
        revisions=[row for s in students for row in _revision_rates(state, s, samples)],
        verdicts=[
            RoundVerdicts(student=s, round=round_, counts=counts)
            for s in students
            for round_, counts in sorted(state.tallies[s].verdicts.items())
        ],
        step_times=[
            MeanStepTime(student=s, kind=kind, steps=time.steps, mean_s=time.seconds / time.steps)
            for s in students
            for kind, time in sorted(state.tallies[s].step_times.items())
        ],
        figures=[figure for s in students for figure in _figures(s, [r for r in ordered if r.student == s])],
        steps=ordered,
    )


def _revision_rates(state: RunState, student: str, samples: int) -> list[RevisionRates]:
    cognizant = _cognizance(state.gates)
    found: dict[tuple[str, str, bool], list[RevisionCount]] = {}
    for row in state.tallies[student].revisions:
        spoke = "cognizant tutor" if cognizant.get((row.round, row.tutor, student)) else "incognizant tutor"
        # One count goes into several rows: the bins overlap as in the paper, and a group that is all wrong is in none.
        for of in (EVERYTHING, spoke, *difficulty_bins(row.wrong_rollouts, samples)):
            found.setdefault((row.tutor, of, row.told), []).append(row)
    order = (EVERYTHING, "cognizant tutor", "incognizant tutor", *BINS)
    return [
        RevisionRates(
            student=student,
            tutor=tutor,
            of=of,
            told=told,
            groups=sum(row.groups for row in rows),
            breaks=breaks(rows),
            fixes=fixes(rows),
            chance=_chance(rows, samples),
        )
        for (tutor, of, told), rows in sorted(
            found.items(), key=lambda item: (item[0][0], order.index(item[0][1]), not item[0][2])
        )
    ]


def _cognizance(gates: Sequence[GateDecision]) -> Mapping[tuple[int, str, str], bool]:
    """By round, tutor and tutee."""
    return {(gate.round, pair.tutor, pair.student): pair.cognizant for gate in gates for pair in gate.pairs}


def _chance(rows: Sequence[RevisionCount], samples: int) -> float | None:
    right = sum(row.right for row in rows)
    # Weighted by the right rollouts, as the break-rate that it stands beside is: only what was right can break.
    expected = sum(row.right * resampling_chance(row.wrong_rollouts, samples) for row in rows if row.right)
    return expected / right if right else None


def _figures(student: str, records: Sequence[StepRecord]) -> list[Figure]:
    figures = []
    for name in FIGURES:
        having = [r for r in records if r.metrics.tokens or name == "active_share"]
        # Without a token to learn from the other figures of a step are 0 and would pull the mean down.
        told = [getattr(record.metrics, name) for record in having]
        # Only of shared rollouts is there a share of the peer's.
        values = [float(value) for value in told if value is not None]
        if values:
            mean = sum(values) / len(values)
            figures.append(Figure(student=student, name=name, steps=len(values), mean=mean, last=values[-1]))
    return figures
