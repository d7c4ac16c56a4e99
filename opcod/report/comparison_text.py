"""A comparison as Markdown and as tables on a terminal."""

from collections.abc import Callable, Sequence

from rich.console import Console

from opcod.report.grids import Grid, grid_markdown, grid_table
from shared.results.comparison import Cell, Comparison, Estimate, MethodFigures

PICTURES = ("scores.png", "changes.png", "differences.png")

Shown = Callable[[Cell], str]


def verdict_lines(comparison: Comparison) -> list[str]:
    """What can be said, in plain words; no method is called better where intervals overlap."""
    lines = []
    if not comparison.finished:
        done = ", ".join(f"{m.method} {len(m.runs)}" for m in comparison.methods) or "none"
        lines.append(f"Not finished: of {len(comparison.seeds)} runs a method there are so far: {done}.")
    for method in comparison.methods:
        if method.same_as is not None:
            lines.append(f"{method.method} and {method.same_as} are one computation: the same runs, shown twice.")
    compared = [m for m in comparison.methods if any(cell.difference for cell in m.cells)]
    lines += [_verdict_line(method, comparison.reference) for method in compared]
    if comparison.unlike_before:
        seeds = ", ".join(map(str, comparison.unlike_before))
        lines.append(
            f"Of seed {seeds}, the runs measured their initial scores each for itself: changes then hold the noise of "
            f"two evaluations; differences in the final score do not depend on it."
        )
    if any(len(method.runs) == 1 for method in comparison.methods):
        lines.append("A single seed has no interval, and nothing follows from it.")
    return lines


def notes(comparison: Comparison) -> list[str]:
    """How the numbers are to be read."""
    return [
        f"Seeds {', '.join(map(str, comparison.seeds))}; n is the number of finished runs. ± is the 95 % interval of "
        "the mean over seeds by Student's t with n - 1 degrees of freedom; it holds the noise of the seed and of the "
        "test together.",
        "The runs of one seed share specialists and problems, so differences are taken seed by seed. A method is "
        "called higher or lower only where the interval of the difference leaves out 0 and the two "
        "intervals of the final score do not overlap. No correction is made for the number of cells looked at.",
        "Training seconds leave out fine-tuning and evaluations. Wall seconds are of the whole run: of one seed the "
        "first run pays for what the others share.",
    ]


def grids(comparison: Comparison) -> list[Grid]:
    """All tables, in order."""
    if not comparison.methods:
        return []
    differing = [method for method in comparison.methods if any(cell.difference for cell in method.cells)]
    return [
        _cell_grid("Final test scores, %", comparison.methods, lambda cell: _percent(cell.after)),
        _cell_grid("Change from before, points", comparison.methods, lambda cell: _points(cell.change)),
        _cell_grid(f"Final score against {comparison.reference}, points, paired by seed", differing, _difference),
        _run_grid(comparison),
        _seed_grid(comparison.methods),
    ]


def to_markdown(comparison: Comparison) -> str:
    lines = [f"# Comparison {comparison.name}", "", *(f"- {line}" for line in verdict_lines(comparison)), ""]
    for grid in grids(comparison):
        lines += grid_markdown(grid) if grid.rows else []
    lines += [f"{note}\n" for note in notes(comparison)]
    lines += [f"![{name.removesuffix('.png')}]({name})" for name in PICTURES if comparison.methods]
    return "\n".join(lines) + "\n"


def print_comparison(comparison: Comparison, console: Console) -> None:
    for grid in grids(comparison):
        if grid.rows:
            console.print(grid_table(grid))
    for line in verdict_lines(comparison):
        console.print(line, style="bold", highlight=False)


def place(cell: Cell) -> str:
    """`a physics (own)`; `mean of all` for the mean over students and domains."""
    return f"{cell.student} {'of all' if cell.student == 'mean' else cell.domain}" + (" (own)" if cell.strong else "")


def _cell_grid(title: str, methods: Sequence[MethodFigures], shown: Shown) -> Grid:
    rows = [[method.method, str(len(method.runs)), *map(shown, method.cells)] for method in methods]
    places = [place(cell) for cell in methods[0].cells] if methods else []
    return Grid(title, ["method", "n", *places], rows)


def _run_grid(comparison: Comparison) -> Grid:
    rows = [
        [
            method.method,
            f"{method.mutual_improvements} of {len(method.runs)}",
            _seconds(method.training_s),
            _seconds(method.wall_s),
            ", ".join(method.runs.values()),
        ]
        for method in comparison.methods
    ]
    rows += [[method, "-", "-", "-", "none finished"] for method in comparison.missing]
    return Grid("Runs", ["method", "mutual improvement", "training, s", "wall, s", "runs"], rows)


def _seed_grid(methods: Sequence[MethodFigures]) -> Grid:
    rows = [
        [str(seed), method.method, *(_by_seed(cell, seed) for cell in method.cells)]
        for seed in sorted({seed for method in methods for seed in method.runs})
        for method in methods
        if seed in method.runs and method.same_as is None
    ]
    return Grid("By seed: before → after, %", ["seed", "method", *(place(cell) for cell in methods[0].cells)], rows)


def _by_seed(cell: Cell, seed: int) -> str:
    return f"{100 * cell.before.values[seed]:.1f} → {100 * cell.after.values[seed]:.1f}"


def _verdict_line(method: MethodFigures, reference: str) -> str:
    named = [f"{cell.verdict} in {place(cell)}" for cell in method.cells if cell.verdict in ("higher", "lower")]
    if named:
        return f"{method.method} against {reference}: {', '.join(named)}; nothing is shown elsewhere."
    return f"{method.method} against {reference}: no difference is shown; the intervals overlap in every cell."


def _difference(cell: Cell) -> str:
    if cell.difference is None:
        return "-"
    return _points(cell.difference) + (f", {cell.verdict}" if cell.verdict in ("higher", "lower") else "")


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f}{_half(estimate, 100, '.1f')}"


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:+.1f}{_half(estimate, 100, '.1f')}"


def _seconds(estimate: Estimate) -> str:
    return f"{estimate.mean:.0f}{_half(estimate, 1, '.0f')}"


def _half(estimate: Estimate, scale: float, form: str) -> str:
    if estimate.interval is None:
        return ""
    return f" ± {scale * (estimate.interval[1] - estimate.mean):{form}}"
