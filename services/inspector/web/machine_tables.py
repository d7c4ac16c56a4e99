"""What a run's page says of the machine, as tables: who is up and what it uses, how fast it is, what waits. Pure."""

from collections.abc import Iterable

from services.inspector.run.view import RunView
from shared.contracts.heartbeats import Heartbeat, MachineUsage
from shared.results import grid
from shared.results.grid import Column, Grid, Named, Rows, Value, plain

SPEED, SECONDS = Column("", ".0f", unit=" /s"), Column("", ".0f", unit=" s")


def services_grid(view: RunView) -> Grid:
    """Replica by replica; columns of GPUs where somebody has one."""
    with_gpus = any(beat.usage is not None and beat.usage.gpu_bytes is not None for beat in view.services)
    rows: Rows = [
        [Named(beat.service, beat.replica), beat.state, _serves(beat), *_used(beat.usage, with_gpus)]
        for beat in view.services
    ]
    columns = [Column("Cores", ".2f"), Column("Memory", ".2f", 1e-9, " GB")]
    of_gpus = [Column("GPUs in use", ".2f"), Column("GPU memory", ".1f", 1e-9, " GB")] if with_gpus else []
    return Grid("Services", [*plain("Service", "State", "Serves, since"), *columns, *of_gpus], rows)


def _serves(beat: Heartbeat) -> Value:
    """Each version with its age in this process."""
    ages = {version: beat.at - at for version, at in beat.served_since.items()}
    named = [Named(version, age_text(ages[version]) if version in ages else "") for version in beat.versions]
    return named or beat.version


def _used(usage: MachineUsage | None, with_gpus: bool) -> list[Value]:
    if usage is None:
        return [None] * (4 if with_gpus else 2)
    return [usage.cores, usage.bytes, *([usage.gpus, usage.gpu_bytes] if with_gpus else [])]


def age_text(seconds: float) -> str:
    """For people, in the largest unit of which there are two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def figures_grid(view: RunView) -> Grid:
    """A column for each student, in rows of three kinds, each with a unit of its own."""
    figures = view.figures
    rows: list[list[Value]] = [
        [kind, *(grid.text(row.tokens_per_s.get(kind), SPEED) for row in figures)]
        for kind in _names(row.tokens_per_s for row in figures)
    ]
    rows += [
        [f"waited for {stage}", *(grid.text(row.stage_seconds.get(stage), SECONDS) for row in figures)]
        for stage in _names(row.stage_seconds for row in figures)
    ]
    rows += [
        [f"lost feedback, {why}", *(row.lost_feedback.get(why, 0) for row in figures)]
        for why in _names(row.lost_feedback for row in figures)
    ]
    return Grid("Tokens a second, seconds waited for", plain("", *(row.student for row in figures)), rows)


def queues_grid(view: RunView) -> Grid:
    """Those that are not empty, and those where somebody is waited for first."""
    busy = [row for row in view.queues if row.waiting] + [row for row in view.queues if row.taken and not row.waiting]
    return Grid("Queues", plain("Queue", "Waiting", "Taken"), [[row.queue, row.waiting, row.taken] for row in busy])


def _names(rows: Iterable[Iterable[str]]) -> list[str]:
    """Every name in some row, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))
