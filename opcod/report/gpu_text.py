"""`report/gpu.md`: what a run on GPUs was planned to take beside what it took, and what is not as it should be. Pure.

What always holds: a figure that was not measured is a dash, never the planned one; and nothing that is wrong is told by
a number alone, each has a line of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from opcod.local.usage import OTHERS, CardPeak
from opcod.planning.cards import GIB, Card
from opcod.planning.work import Work
from shared.config.settings import RunSettings
from shared.contracts.run import RunState, Status
from shared.contracts.weights import StepRecord
from shared.results.grid import Column, Grid, Rows, Value, markdown, percent, plain
from shared.results.report import Report

ROUNDING = 1.005
"""Of a plan in bytes and a driver that counts in pages of 2 MB."""


@dataclass(frozen=True)
class GpuFigures:
    """cards: as planned; peaks: as seen, of the same cards. work: as planned, output tokens at most. machine: what it
    was measured on, for people, by what it is."""

    settings: RunSettings
    machine: Mapping[str, str]
    cards: Sequence[Card]
    peaks: Sequence[CardPeak]
    work: Sequence[Work]
    state: RunState
    report: Report
    steps: Sequence[StepRecord]


def faults(measured: GpuFigures) -> list[str]:
    """What is not as planned, a line each; empty where all is well."""
    return [*_run_faults(measured), *_memory_faults(measured), *_drift_faults(measured)]


def to_markdown(measured: GpuFigures) -> str:
    found = faults(measured)
    said = [f"- {fault}." for fault in found] or ["All is within what was planned."]
    lines = [f"# What run {measured.report.run} took of its GPUs", "", *said, ""]
    for grid in grids(measured):
        lines += markdown(grid)
    return "\n".join(lines) + "\n"


def grids(measured: GpuFigures) -> list[Grid]:
    """All tables that have a row, in order."""
    every = [_machine(measured), _memory(measured), _stages(measured), _work(measured), _drift(measured)]
    return [grid for grid in every if grid.rows]


# What is wrong ---------------------------------------------------------------------------------------------
def _run_faults(measured: GpuFigures) -> Iterator[str]:
    state = measured.state
    if state.status is not Status.DONE:
        why = state.failed or state.paused
        yield f"The run is {state.status.value}{f': {why}' if why else ''}"
    for service, times in sorted(measured.report.restarts.items()):
        yield f"{service} ended {times} times and was started again; its log says why"


def _memory_faults(measured: GpuFigures) -> Iterator[str]:
    for card, peak in zip(measured.cards, measured.peaks, strict=True):
        where = f"GPU {card.number}"
        for need in card.needs:
            held = peak.services.get(need.service)
            if held is None and peak.services:
                yield f"{need.service} was never seen on {where}; its log says which device it took"
            elif held is not None and held > need.bytes * ROUNDING:
                yield (
                    f"{need.service} took {_gib(held)} GiB of {where}, planned were {_gib(need.bytes)} at most: plan "
                    "for less (a smaller pass, a smaller cache), or report these figures"
                )
        if not peak.services:
            yield f"{where}: the driver does not tell processes apart here, so only the sum of the card is known"
        planned = card.room - card.left
        if not peak.services and peak.used - peak.before > planned * ROUNDING:
            yield f"{where}: {_gib(peak.used - peak.before)} GiB were taken, planned were {_gib(planned)} at most"


def _drift_faults(measured: GpuFigures) -> Iterator[str]:
    bound = measured.settings.alarms.max_delta_logprob
    for step in measured.steps:
        delta = step.metrics.delta_logprob
        # Written so that NaN is a fault, too.
        if not delta <= bound:
            yield (
                f"Engine and trainer of student {step.student} differ by {delta:.3f} nats a token in step {step.step}, "
                f"at most {bound:g} is rounding: they compute with other weights, or one of them computes wrong "
                "(docs/diagnostics.md)"
            )


# Tables ----------------------------------------------------------------------------------------------------
def _machine(measured: GpuFigures) -> Grid:
    cards: Rows = [
        [f"GPU {card.number}", f"{peak.name}, {_gib(peak.bytes)} GiB, {_gib(peak.before)} in use before the run"]
        for card, peak in zip(measured.cards, measured.peaks, strict=True)
    ]
    return Grid("Measured on", plain("what", "which"), [*cards, *map(list, measured.machine.items())])


def _memory(measured: GpuFigures) -> Grid:
    rows: list[list[Value]] = []
    for card, peak in zip(measured.cards, measured.peaks, strict=True):
        planned = sum(need.bytes for need in card.needs)
        rows.append([f"GPU {card.number}", "all", *_beside(planned, peak.used - peak.before)])
        rows += [["", need.service, *_beside(need.bytes, peak.services.get(need.service))] for need in card.needs]
        known = {need.service for need in card.needs}
        rows += [["", name, *_beside(None, held)] for name, held in sorted(peak.services.items()) if name not in known]
    columns = [*plain("card", "process"), *map(_in_gib, ("planned, at most", "measured, at most")), percent("share", 0)]
    return Grid(f"Memory by process, GiB ({OTHERS}: of no service of this run)", columns, rows)


def _beside(planned: int | None, measured: int | None) -> list[Value]:
    share = measured / planned if planned and measured is not None else None
    return [None if planned is None else float(planned), None if measured is None else float(measured), share]


def _stages(measured: GpuFigures) -> Grid:
    """Of the launcher and the run as a whole, then of each student's steps and of its trainer."""
    rows: list[list[Value]] = [["run", stage.name, stage.seconds] for stage in measured.report.stages]
    for student in measured.report.students:
        parts = (
            (f"steps of {student.student}", student.stage_seconds),
            (f"trainer {student.student}", student.trainer_seconds),
        )
        rows += [[whose, name, seconds] for whose, stages in parts for name, seconds in stages.items()]
    return Grid("Seconds by stage", [*plain("of", "stage"), Column("measured", ".1f")], rows)


def _work(measured: GpuFigures) -> Grid:
    """What engines made of what they were planned to make at most, and how fast."""
    planned: dict[str, int] = {}
    for work in measured.work:
        kind = work.kind.partition(" ")[0]
        planned[kind] = planned.get(kind, 0) + work.output_tokens
    rows: list[list[Value]] = []
    for kind, most in planned.items():
        tallies = measured.state.tallies.values()
        made = sum(tally.output_tokens.get(kind, 0) for tally in tallies)
        seconds = sum(tally.engine_seconds.get(kind, 0.0) for tally in tallies)
        rows.append([kind, f"{most:,}", f"{made:,}", seconds, made / seconds if seconds else None])
    columns = [
        *plain("job", "output tokens, planned at most", "made"),
        Column("engine seconds", ".1f"),
        Column("tokens a second", ".0f"),
    ]
    return Grid("Work of both engines", columns, rows)


def _drift(measured: GpuFigures) -> Grid:
    bound = measured.settings.alarms.max_delta_logprob
    rows: Rows = [
        [step.student, str(step.step), bound, step.metrics.delta_logprob, step.metrics.clipped_share]
        for step in measured.steps
    ]
    columns = [
        *plain("student", "step"),
        Column("bound", ".2f"),
        Column("measured", ".4f"),
        percent("clipped share"),
    ]
    return Grid("Mean |Δ log-prob| of a token, engine against trainer, nats", columns, rows)


def _in_gib(title: str) -> Column:
    return Column(title, ".2f", 1 / GIB)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
