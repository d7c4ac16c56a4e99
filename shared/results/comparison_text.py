"""A comparison in tables and plain words, the same on a terminal, in Markdown and on a page. Pure."""

from collections.abc import Callable, Sequence

from shared.results.comparison import MEAN, Cell, Comparison, Estimate, MethodFigures
from shared.results.grid import Column, FromTo, Grid, OverSeeds, Rows, markdown, percentage, plain

PICTURES = ("scores.png", "changes.png", "differences.png")

Chosen = Callable[[Cell], OverSeeds | str]


def verdict_lines(comparison: Comparison) -> list[str]:
    """What can be said, in plain words; no method is called better where the interval of its difference holds 0, or
    has no width."""
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
        "called higher or lower only where the interval of the difference leaves out 0. No correction is made for the "
        "number of cells looked at.",
        "Training seconds leave out fine-tuning and evaluations. Wall seconds are of the whole run: of one seed the "
        "first run pays for what the others share.",
    ]


def grids(comparison: Comparison) -> list[Grid]:
    """All tables that have a row, in order."""
    if not comparison.methods:
        return []
    differing = [method for method in comparison.methods if any(cell.difference for cell in method.cells)]
    against = f"Final score against {comparison.reference}, points, paired by seed"
    every = [
        _cell_grid("Final test scores, %", comparison.methods, lambda cell: _mean(cell.after), ".1f"),
        _cell_grid("Change from before, points", comparison.methods, lambda cell: _mean(cell.change), "+.1f"),
        _cell_grid(against, differing, _difference, "+.1f"),
        _run_grid(comparison),
        _seed_grid(comparison.methods),
    ]
    return [grid for grid in every if grid.rows]


def to_markdown(comparison: Comparison) -> str:
    lines = [f"# Comparison {comparison.name}", "", *(f"- {line}" for line in verdict_lines(comparison)), ""]
    for grid in grids(comparison):
        lines += markdown(grid)
    lines += [f"{note}\n" for note in notes(comparison)]
    lines += [f"![{name.removesuffix('.png')}]({name})" for name in PICTURES if comparison.methods]
    return "\n".join(lines) + "\n"


def place(cell: Cell) -> str:
    """`a physics (own)`; `mean of all` for the mean over students and domains."""
    return f"{cell.student} {'of all' if (cell.student, cell.domain) == MEAN[:2] else cell.domain}" + (
        " (own)" if cell.strong else ""
    )


def _cell_grid(title: str, methods: Sequence[MethodFigures], chosen: Chosen, form: str) -> Grid:
    rows: Rows = [[method.method, len(method.runs), *map(chosen, method.cells)] for method in methods]
    columns = [percentage(place(cell), form) for cell in methods[0].cells] if methods else []
    return Grid(title, [*plain("method", "n"), *columns], rows)


def _run_grid(comparison: Comparison) -> Grid:
    finished: Rows = [
        [
            method.method,
            f"{method.mutual_improvements} of {len(method.runs)}",
            _mean(method.training_s),
            _mean(method.wall_s),
            ", ".join(method.runs.values()),
        ]
        for method in comparison.methods
    ]
    missing: Rows = [[method, "-", "-", "-", "none finished"] for method in comparison.missing]
    seconds = [Column("training, s", ".0f"), Column("wall, s", ".0f")]
    return Grid("Runs", [*plain("method", "mutual improvement"), *seconds, *plain("runs")], [*finished, *missing])


def _seed_grid(methods: Sequence[MethodFigures]) -> Grid:
    rows: Rows = [
        [
            str(seed),
            method.method,
            *(FromTo(cell.before.values[seed], cell.after.values[seed]) for cell in method.cells),
        ]
        for seed in sorted({seed for method in methods for seed in method.runs})
        for method in methods
        # One computation shown twice would be two rows of the same numbers.
        if seed in method.runs and method.same_as is None
    ]
    columns = [*plain("seed", "method"), *(percentage(place(cell)) for cell in methods[0].cells)]
    return Grid("By seed: before → after, %", columns, rows)


def _verdict_line(method: MethodFigures, reference: str) -> str:
    named = [
        f"{cell.verdict} in {place(cell)} by {abs(100 * cell.difference.mean):.1f} points"
        for cell in method.cells
        if cell.difference and cell.verdict in ("higher", "lower")
    ]
    if named:
        return f"{method.method} against {reference}: {', '.join(named)}; nothing is shown elsewhere."
    same = [place(cell) for cell in method.cells if cell.difference and cell.difference.without_spread]
    why = f"; all seeds have the same in {', '.join(same)}, which tells how coarse the test is" if same else ""
    return f"{method.method} against {reference}: no difference is shown{why}."


def _difference(cell: Cell) -> OverSeeds | str:
    if cell.difference is None:
        return "-"
    return _mean(cell.difference, cell.verdict if cell.verdict in ("higher", "lower") else "")


def _mean(estimate: Estimate, word: str = "") -> OverSeeds:
    half = None if estimate.interval is None else estimate.interval[1] - estimate.mean
    return OverSeeds(estimate.mean, half, word)
