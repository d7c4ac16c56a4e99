"""A probe in words: its tables and what follows from them, as Markdown and on a terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from shared.results.grid import Column, Grid, markdown, percentage, plain, terminal
from shared.results.probing import ENOUGH_ERRORS, HOLDS, KNOWN, PULLS, Finding, KindRow, Probe

_WORDS: dict[Finding, str] = {
    "known": "known",
    "too_few": "too few errors",
    "nobody_knows": "nobody knows it",
    "tutor_silent": "not told",
    "tutee_deaf": "does not follow",
    "loss_blind": "loss does not reach",
    "teachable": "can be taught",
}
_WHY: dict[Finding, str] = {
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

    def found(finding: Finding) -> list[KindRow]:
        return [row for row in rows if row.finding == finding]

    if known := found("known"):
        yield f"{student} knows {len(known)} of {len(rows)} kinds: {_listed(known)}."
    if taught := found("teachable"):
        yield f"{peer} can teach {student}: {_listed(taught)}."
    for finding, why in _WHY.items():
        if stuck := found(finding):
            because = why.format(student=student, peer=peer)
            yield f"{peer} cannot teach {student} {_listed(stuck)}: {because}. {_evidence(probe, finding, stuck, peer)}"
    if few := found("too_few"):
        yield f"{student} makes too few different errors for more to be said: {_listed(few)}."
    alone = [row for row in rows if row.finding in _WHY and row.by_itself]
    if alone:
        yield (
            f"Right answers of its own can still teach {student}: {_listed(alone)}; at least half of its groups of "
            f"{probe.rollouts} rollouts have one."
        )


def _evidence(probe: Probe, finding: Finding, rows: Sequence[KindRow], peer: str) -> str:
    """The share that decided."""
    if finding == "nobody_knows":
        itself = {(row.domain, row.kind): row.plain for row in probe.of(peer)}
        return f"{peer} itself is right in: {_each(rows, lambda row: itself[row.domain, row.kind])}."
    if finding == "tutor_silent":
        return f"Told all that it takes, of the errors: {_each(rows, lambda row: row.told)}."
    if finding == "tutee_deaf":
        after = _each(rows, lambda row: row.hinted if row.hinted is not None else row.fixed)
        return f"Right when told: {after}."
    unseen = _each(rows, lambda row: row.unseen_where_differing)
    return (
        f"Of the tokens at which the self-teacher wants another one, given less than 1 %: {unseen}; the loss pulls at "
        f"those by less than {PULLS:g}."
    )


def notes(probe: Probe) -> list[str]:
    """How the numbers are to be read."""
    # Half of the 95 % interval of a share of one half, with answers taken as independent.
    swing = 98 / min(row.answers for row in probe.rows) ** 0.5
    lines = [
        f"Seed {probe.seed}, {probe.problems_per_kind} training problems a kind, {probe.samples} answers to each at "
        f"temperature {probe.temperature:g}: chance alone moves a share by up to {swing:.0f} points. Nothing was "
        f"trained; it took {probe.seconds:.0f} s.",
        f"An error is a wrong answer, each distinct one of a problem once. Known is what is right in "
        f"{100 * KNOWN:.0f} % or more; the rest is judged from {ENOUGH_ERRORS} errors on, and fails below "
        f"{100 * HOLDS:.0f} %.",
    ]
    if not _verdicts(probe):
        lines.append("No tutor says in so many words whether an answer is right, so there are no verdicts to judge.")
    return lines


def grids(probe: Probe) -> list[Grid]:
    """Two tables a student: what it can do, and what its peer does about its errors."""
    found = []
    for student in probe.students:
        (peer,) = (other for other in probe.students if other != student)
        rows = probe.of(student)
        found.append(_solving(student, rows))
        wrong = [row for row in rows if row.errors and row.finding != "known"]
        if wrong:
            found.append(_tutoring(student, peer, wrong, verdicts=_verdicts(probe)))
    return found


def _solving(student: str, rows: Sequence[KindRow]) -> Grid:
    titles = ("right plain", "with the right hint", "with a solution", "groups with a right one")
    return Grid(
        f"{student} answers, %",
        [*plain("kind", "domain"), *(percentage(title, ".0f") for title in titles), *plain("finding")],
        [
            [
                *(_name(row), row.domain, row.plain, row.hinted, row.solution_shown, row.chance),
                _WORDS[row.finding],
            ]
            for row in rows
        ],
    )


def _tutoring(student: str, peer: str, rows: Sequence[KindRow], *, verdicts: bool) -> Grid:
    shares: dict[str, Callable[[KindRow], float | None]] = {
        "formula": lambda row: row.formula,
        "numbers": lambda row: row.numbers,
        **({"verdict": lambda row: row.true_verdict} if verdicts else {}),
        "let through": lambda row: row.delivered,
        "tells all": lambda row: row.told,
        "right after": lambda row: row.fixed,
        "tokens < 1 %": lambda row: row.unseen,
        "of differing": lambda row: row.unseen_where_differing,
    }
    return Grid(
        f"{peer} on the errors of {student}, %, and where the loss reaches",
        [*plain("kind", "errors"), *(percentage(title, ".0f") for title in shares), Column("pull", ".3f")],
        [[_name(row), str(row.errors), *(share(row) for share in shares.values()), row.pull] for row in rows],
    )


def _verdicts(probe: Probe) -> bool:
    """Whether any tutor gave one."""
    return any(row.true_verdict is not None for row in probe.rows)


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


def _listed(rows: Sequence[KindRow]) -> str:
    return ", ".join(map(_name, rows))


def _each(rows: Sequence[KindRow], share: Callable[[KindRow], float | None]) -> str:
    """`ice 3 %, kerosene 0 %`."""
    known = ((row, value) for row in rows if (value := share(row)) is not None)
    return ", ".join(f"{_name(row)} {100 * value:.0f} %" for row, value in known)


def _name(row: KindRow) -> str:
    """Of the kind; problems of a set without kinds are one."""
    return row.kind or row.domain
