"""A run's view as the tables of its page, so that it reads without JavaScript. Pure.

The numbers are those of `shared/results`; what is done here is to put them into columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inspector.run.view import RunView
from services.inspector.web.machine_tables import figures_grid, queues_grid, services_grid
from services.inspector.web.rendering import COLOURS, VERDICTS, link, number, percent, state_words
from services.inspector.web.score_pictures import Plane, Profile, planes, profiles
from services.inspector.web.timeline import Picture, picture, seconds_grid
from shared.contracts.run import GateDecision
from shared.results import grid
from shared.results.figures import DELIVERED, Share, broken, fixed
from shared.results.grid import Column, Grid, Measured, Named, Rows, Value, plain
from shared.results.progress import Improvement, RunResults, ScorePoint

NEWEST_STEPS = 20


@dataclass(frozen=True)
class ResultTables:
    """Of one run; a table without rows says what is not there yet. steps: the newest."""

    gate: Grid
    taught: Grid
    verdicts: Grid
    revisions: Grid
    steps: Grid


@dataclass(frozen=True)
class RunTables:
    """own, other: of the run and of the one beside it, whose table is None without one, as is `outcomes`, which has
    both in a few figures. tested: by student, in words. picture, seconds: of the timeline, None without one."""

    tested: dict[str, str]
    outcomes: Grid | None
    scores: Grid
    planes: list[Plane]
    profiles: list[Profile]
    own: ResultTables
    other: ResultTables | None
    picture: Picture | None
    seconds: Grid | None
    services: Grid
    figures: Grid
    queues: Grid
    dead_letters: Grid


def run_tables(view: RunView) -> RunTables:
    return RunTables(
        tested={i.student: directions(i) for i in view.improvements if i.split == "test"},
        outcomes=outcomes([view, view.beside]) if view.beside else None,
        scores=_scores(view),
        planes=list(planes(view)),
        profiles=list(profiles(view)),
        own=_results(view, view),
        other=_results(view, view.beside) if view.beside else None,
        picture=picture(view.timeline, view.usage) if view.timeline else None,
        seconds=seconds_grid(view.timeline) if view.timeline else None,
        services=services_grid(view),
        figures=figures_grid(view),
        queues=queues_grid(view),
        dead_letters=Grid(
            "Dead letters",
            plain("Queue", "Reason", "Tries"),
            [[letter.queue, letter.reason, letter.deliveries] for letter in view.dead_letters],
        ),
    )


def directions(found: Improvement) -> str:
    """In which domains a student is better and in which worse, in words."""
    better = [domain for domain, first in found.first.items() if found.last[domain] > first]
    worse = [domain for domain, first in found.first.items() if found.last[domain] < first]
    return f"better in {' and '.join(better) or 'none'}, worse in {' and '.join(worse) or 'none'}"


def outcomes(runs: Sequence[RunResults]) -> Grid:
    """Runs side by side in a few figures. All have the same rows, since all are asked about the students of each."""
    students = sorted({student for run in runs for student in run.versions})
    columns = [_outcome(run, students) for run in runs]
    rows: Rows = [[label, *(column[label] for column in columns)] for label in (columns[0] if columns else ())]
    return Grid("Runs", plain("", *(run.run for run in runs)), rows)


def _outcome(results: RunResults, students: list[str]) -> Mapping[str, Value]:
    state = state_words(results.status) if results.status else None
    found: dict[str, Value] = {
        "Outcome": ": ".join(filter(None, (state, results.reason))) or None,
        "Rounds": results.round,
        "Versions": ", ".join(results.versions[name] for name in sorted(results.versions)) or None,
    }
    for student in students:
        tests = results.improvement(student, "test")
        found[f"{student} on the test problems"] = _improved(tests) if tests else None
    for student in students:
        found[f"Feedback delivered to {student}"] = _share(results.delivered(student))
    for student in students:
        found[f"Break-rate of {student}"] = _share(results.broken(student))
        found[f"Fix-rate of {student}"] = _share(results.fixed(student))
    for student in students:
        median_s = results.median_step_s(student)
        found[f"Step of {student}, median"] = None if median_s is None else f"{number(median_s, 1)} s"
    return found


def _improved(found: Improvement) -> str:
    means = [
        f"{domain} {percent(first, 1)} → {percent(found.last[domain], 1)}" for domain, first in found.first.items()
    ]
    return f"{', '.join(means)}: {'improved' if found.pareto else 'not improved'}"


def _share(share: Share) -> str | None:
    return f"{percent(share.value, 1)} of {share.whole}" if share.whole else None


def _scores(view: RunView) -> Grid:
    """First and newest score of each student, domain and split: the test problems' first, domains in their order."""
    keys = dict.fromkeys((p.student, p.domain, p.split) for p in view.scores)
    # The broker's state may tell of a domain before the log does.
    places = list(dict.fromkeys((*view.domains, *(domain for _, domain, _ in keys))))
    rows: list[list[Value]] = []
    # False sorts before True.
    for student, domain, split in sorted(keys, key=lambda key: (key[2] != "test", key[0], places.index(key[1]))):
        points = _points(view, student, domain, split)
        change = points[-1].score - points[0].score if len(points) > 1 else None
        own = "own" if view.students.get(student) == domain else ""
        row: list[Value] = [
            _student(view, student),
            Named(domain, own),
            split,
            _point(points[0]),
            _point(points[-1]),
            change,
        ]
        if view.beside:
            other = _points(view.beside, student, domain, split)
            row.append(_point(other[-1]) if other else None)
        rows.append(row)
    columns = [
        *plain("Student", "Domain", "Problems"),
        _score_column("First"),
        _score_column("Newest"),
        Column("Change", "+.1f", 100, drawn="sign"),
        *([_score_column(f"{view.beside.run}, newest")] if view.beside else []),
    ]
    return Grid("Scores", columns, rows)


def _score_column(title: str) -> Column:
    return Column(title, ".1f", 100, " %", interval_form=".0f")


def _points(results: RunResults, student: str, domain: str, split: str) -> list[ScorePoint]:
    return [p for p in results.scores if (p.student, p.domain, p.split) == (student, domain, split)]


def _point(point: ScorePoint) -> Measured:
    return Measured(point.score, point.interval)


def _results(view: RunView, results: RunResults) -> ResultTables:
    return ResultTables(
        _gate(view, results),
        _taught(view, results),
        _verdicts(view, results),
        _revisions(view, results),
        _steps(results),
    )


def _gate(view: RunView, results: RunResults) -> Grid:
    """The newest first; of more than two students every tutor beside every tutee. Of the run's own students."""
    students = list(dict.fromkeys(name for gate in results.gates for name in gate.scores))
    if len(students) > 2:
        return _gate_matrix(view, results, students)
    gaps = [Column(f"Gap of {name}", ".3f", interval_form=".2f") for name in students]
    rows: Rows = [
        [gate.round, *(_gap(gate, name) for name in students), gate.tau, _may_tutor(view, gate)]
        for gate in reversed(results.gates)
    ]
    return Grid("Gate", [*plain("Round"), *gaps, Column("τ", ".2f"), *plain("May tutor")], rows)


def _gate_matrix(view: RunView, results: RunResults, students: Sequence[str]) -> Grid:
    """A row for each round and tutor: its gap to each tutee, and whom it may tutor."""
    rows: list[list[Value]] = []
    for gate in reversed(results.gates):
        gaps = {(pair.tutor, pair.student): Measured(pair.gap, pair.interval) for pair in gate.pairs}
        for tutor in students:
            tutees = [_student(view, pair.student) for pair in gate.pairs if pair.tutor == tutor and pair.cognizant]
            told = {"never": "nobody (never)", "always": "all (always)"}.get(gate.mode) or tutees or "nobody"
            each = (gaps.get((tutor, student)) for student in students)
            rows.append([gate.round, _student(view, tutor), *each, gate.tau, told])
    to = [Column(f"Gap to {name}", ".3f", interval_form=".2f") for name in students]
    return Grid("Gate", [*plain("Round", "Tutor"), *to, Column("τ", ".2f"), *plain("May tutor")], rows)


def _taught(view: RunView, results: RunResults) -> Grid:
    """Of more than two students; else it is all in the verdicts."""
    rows: Rows = [
        [
            _student(view, row.tutor),
            _student(view, row.student),
            row.domain,
            row.feedbacks,
            row.kept / row.feedbacks if row.feedbacks else None,
        ]
        for row in results.taught
    ]
    columns = [*plain("Tutor", "Tutee", "Domain", "Feedbacks"), grid.percent("Kept", drawn="bar")]
    return Grid("Who taught whom", columns, rows)


def _gap(gate: GateDecision, student: str) -> Measured | None:
    gap = gate.gaps.get(student)
    return None if gap is None else Measured(gap, gate.gap_intervals.get(student))


def _may_tutor(view: RunView, gate: GateDecision) -> Value:
    words = {"never": "nobody (never)", "always": "all (always)"}.get(gate.mode)
    return words or [_student(view, name) for name, may in gate.cognizant.items() if may] or "nobody"


def _verdicts(view: RunView, results: RunResults) -> Grid:
    """The most frequent first. Those of this run lead to their exchanges."""
    rows: list[list[Value]] = []
    for student in sorted({row.student for row in results.verdicts}):
        counts: dict[str, int] = {}
        for row in sorted(results.verdicts, key=lambda row: row.verdict):
            if row.student == student:
                counts[row.verdict] = counts.get(row.verdict, 0) + row.count
        for word in sorted(counts, key=lambda word: -counts[word]):
            # The feed is of this run alone, so the other one's words lead nowhere.
            href = link("/", {"student": student, "verdict": word}) if results is view else ""
            mark = "verdict delivered" if word in DELIVERED else "verdict dropped"
            named = Named(word.replace("_", " "), mark=mark, title=VERDICTS.get(word, word), href=href)
            rows.append([_student(view, student), named, counts[word], counts[word] / sum(counts.values())])
    return Grid("Verdicts", [*plain("Tutee", "Verdict", "Feedbacks"), grid.percent("Share", drawn="bar")], rows)


def _revisions(view: RunView, results: RunResults) -> Grid:
    columns = [
        *plain("Tutee", f"Wrong of {view.samples}" if results is view else "Wrong rollouts", "Feedback shown"),
        grid.percent("Broke", 0, drawn="bar bad"),
        *plain("of right"),
        grid.percent("Fixed", 0, drawn="bar good"),
        *plain("of wrong"),
    ]
    rows: Rows = [
        [
            _student(view, row.student),
            row.wrong_rollouts,
            "yes" if row.told else "no",
            broken([row]).value,
            row.right,
            fixed([row]).value,
            row.wrong,
        ]
        for row in results.difficulty
        if row.right or row.wrong
    ]
    return Grid("Broke and fixed", columns, rows)


def _steps(results: RunResults) -> Grid:
    """The newest first."""
    rows: Rows = [
        [
            step.version,
            step.metrics.loss,
            step.metrics.grad_norm,
            step.metrics.active_share,
            step.metrics.effective_sample_share,
            step.metrics.clipped_share,
            step.metrics.tokens,
            sum(step.metrics.seconds.values()),
            step.wall_s,
        ]
        # From the last one backwards, as many as there are at most.
        for step in results.steps[: -NEWEST_STEPS - 1 : -1]
    ]
    columns = [
        *plain("Version"),
        Column("Loss", ".4f"),
        Column("|g|", ".3f"),
        grid.percent("Active", 0),
        Column("ESS", ".3f"),
        grid.percent("Clipped"),
        *plain("Tokens"),
        Column("Trainer, s", ".1f"),
        Column("Wall, s", ".1f"),
    ]
    return Grid("The newest steps", columns, rows)


def _student(view: RunView, name: str) -> Named:
    """In the colour that it has on every page; the other run's students have that of the same name."""
    order = list(view.students)
    return Named(name, mark=f"student student-{order.index(name) % COLOURS if name in order else 0}")
