"""A probe in words: its tables and what follows from them, as Markdown and on a terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from shared.results.grid import Column, Grid, markdown, percentage, plain, terminal
from shared.results.probing import HOLDS, KNOWN, PULLS, KindRow, Obstacle, Probe

_WHY: dict[Obstacle, str] = {
    "nobody_knows": "nobody knows it",
    "tutor_silent": "{peer} does not tell it",
    "tutee_deaf": "{student} does not follow",
    "loss_blind": "the loss does not reach it",
}


def verdict_lines(probe: Probe) -> list[str]:
    """Who can be taught what, and why not the rest."""
    lines = (
        [] if probe.tutoring else [f"In a run of these settings nobody tutors (method {probe.method}, or the gate)."]
    )
    for student in probe.students:
        lines += _student_lines(probe, student)
    return lines


def _student_lines(probe: Probe, student: str) -> Iterator[str]:
    rows = probe.of(student)
    (peer,) = (other for other in probe.students if other != student)
    theirs = {(row.domain, row.kind): row for row in probe.of(peer)}
    known = [row for row in rows if row.known]
    yield (
        f"{student} knows {len(known)} of {len(rows)} kinds (right in {100 * KNOWN:.0f} % or more)"
        f"{_listed(': ', known)}."
    )
    taught = [row for row in rows if not row.known and row.obstacle is None]
    if taught:
        yield f"{peer} can teach {student} {len(taught)}{_listed(': ', taught)}."
    for obstacle, why in _WHY.items():
        stuck = [row for row in rows if row.obstacle == obstacle]
        if stuck:
            because = why.format(student=student, peer=peer)
            yield f"{peer} cannot teach {student} {_listed('', stuck)}: {because}. {_evidence(obstacle, stuck, theirs)}"
    alone = [row for row in rows if row.obstacle is not None and row.by_itself]
    if alone:
        yield (
            f"Of these, {student} can learn from right answers of its own{_listed(' ', alone)}: at least half of its "
            f"groups of {probe.rollouts} have one."
        )


def _evidence(obstacle: Obstacle, rows: Sequence[KindRow], theirs: dict[tuple[str, str], KindRow]) -> str:
    match obstacle:
        case "nobody_knows":
            return f"The tutor itself is right in{_each(rows, lambda row: theirs[row.domain, row.kind].plain)}."
        case "tutor_silent":
            return f"What it takes reaches the student after{_each(rows, lambda row: row.told)} of its errors."
        case "tutee_deaf":
            followed = _each(rows, lambda row: row.hinted if row.hinted is not None else row.fixed)
            return f"Told what it takes, the student is right in{followed}."
        case "loss_blind":
            unseen = _each(rows, lambda row: row.unseen_where_differing)
            return (
                f"Of the tokens in which the self-teacher differs, the student gives less than 1 % to{unseen}, and the "
                f"loss pulls at those by less than {PULLS:g}."
            )


def notes(probe: Probe) -> list[str]:
    """How the numbers are to be read."""
    answers = max(row.answers for row in probe.rows)
    # Half of the 95 % interval of a share of one half, samples taken as independent.
    swing = 100 * 0.98 / answers**0.5
    lines = [
        f"{probe.problems_per_kind} training problems a kind, {probe.samples} answers to each at temperature "
        f"{probe.temperature:g}; chance alone moves a share by up to {swing:.0f} points. An error is a wrong answer, "
        f"each distinct one of a problem once. A link holds from {100 * HOLDS:.0f} % on.",
        f"Seed {probe.seed}. Nothing was trained; {probe.seconds:.0f} s.",
    ]
    if all(row.true_verdict is None for row in probe.rows):
        lines.insert(1, "No tutor says in so many words whether an answer is right, so verdicts are not judged.")
    return lines


def grids(probe: Probe) -> list[Grid]:
    """Two tables a student: what it can do, and what its peer does about its errors."""
    found = []
    for student in probe.students:
        (peer,) = (other for other in probe.students if other != student)
        rows = probe.of(student)
        found.append(_solving(student, rows))
        wrong = [row for row in rows if row.errors]
        if wrong:
            found.append(_tutoring(student, peer, wrong))
    return found


def _solving(student: str, rows: Sequence[KindRow]) -> Grid:
    titles = ("right plain", "with the right hint", "with a solution shown", "groups with a right one")
    return Grid(
        f"{student} answers, %",
        [*plain("kind", "domain"), *(percentage(title, ".0f") for title in titles), Column("")],
        [
            [row.kind or row.domain, row.domain, row.plain, row.hinted, row.solution_shown, row.chance, _word(row)]
            for row in rows
        ],
    )


def _tutoring(student: str, peer: str, rows: Sequence[KindRow]) -> Grid:
    shares = ("right formula", "right numbers", "true verdict", "let through", "tells it all", "right after it")
    tokens = ("tokens under 1 %", "of those that differ")
    return Grid(
        f"{peer} on the errors of {student}, %, and where the loss reaches",
        [
            *plain("kind", "errors"),
            *(percentage(title, ".0f") for title in (*shares, *tokens)),
            Column("pull", ".3f"),
        ],
        [
            [
                row.kind or row.domain,
                str(row.errors),
                *(row.formula, row.numbers, row.true_verdict, row.delivered, row.told, row.fixed),
                *(row.unseen, row.unseen_where_differing, row.pull),
            ]
            for row in rows
        ],
    )


def _word(row: KindRow) -> str:
    if row.known:
        return "known"
    return _SHORT[row.obstacle] if row.obstacle is not None else "can be taught"


_SHORT: dict[Obstacle, str] = {
    "nobody_knows": "nobody knows it",
    "tutor_silent": "not told",
    "tutee_deaf": "does not follow",
    "loss_blind": "loss does not reach",
}


def to_markdown(probe: Probe) -> str:
    lines = [f"# Probe of {probe.name}", ""]
    lines += [f"- {line}" for line in verdict_lines(probe)] + [""]
    for grid in grids(probe):
        lines += markdown(grid)
    return "\n".join([*lines, *(f"{note}\n" for note in notes(probe))])


def print_probe(probe: Probe, console: Console) -> None:
    for grid in grids(probe):
        console.print(terminal(grid))
    # Last, where whoever comes back to the terminal looks first.
    for line in (*notes(probe), *verdict_lines(probe)):
        console.print(line, highlight=False, markup=False)


def _listed(before: str, rows: Sequence[KindRow]) -> str:
    return before + ", ".join(row.kind or row.domain for row in rows) if rows else ""


def _each(rows: Sequence[KindRow], share: Callable[[KindRow], float | None]) -> str:
    """` ice 3 %, oak 0 %`, those that are known."""
    known = [(row.kind or row.domain, value) for row in rows if (value := share(row)) is not None]
    return "".join(f"{',' if at else ''} {kind} {100 * value:.0f} %" for at, (kind, value) in enumerate(known))
