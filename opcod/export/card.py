"""The model card of an exported version, written from its run: what it is, what it scored, and how that came about.

What always holds: every number is the report's own, with its interval; a score stands there only if these tensors were
scored; and what nobody measured is said to be unknown.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from opcod.report.text import feedback_grid, gate_grid, score_grid
from opcod.report.warning_text import warning_lines
from shared.config.settings import RunSettings
from shared.contracts.ids import parse_version
from shared.contracts.models import PreparedModel
from shared.contracts.run import RunState, Score
from shared.modeling.origins import Origin
from shared.problems.formats import format_named
from shared.problems.manifest import ProblemSetManifest
from shared.problems.problem import Problem
from shared.results.figures import first_and_last_test, score_interval
from shared.results.grid import Grid, Measured, Rows, markdown, percentage, plain
from shared.results.report import Report, ScoreRow
from shared.vllm import largest_rank

METHODS = {
    "opcod": "On-Policy Co-Distillation (*Be My Tutor*, arXiv 2606.14368): students answer the same problems, one "
    "that is good enough writes a peer feedback, and the peer distils itself, token by token, from its own moving "
    "average that has seen a right answer of its own and that feedback",
    "sdpo": "self-distillation on its own rollouts, from its own moving average that has seen a right answer of its "
    "own; no peer's feedback",
    "grpo": "policy gradient on its own verified rollouts (GRPO); no peer's feedback",
    "hacpo": "policy gradient on its own and its peer's verified rollouts (HACPO, arXiv 2603.02604); no feedback",
}
QUESTION = "A circuit carries 3 A through 4 ohm. What is the voltage?"


@dataclass(frozen=True)
class Record:
    """What a run's directory says of it. problems: None of a run that keeps no manifest of them."""

    settings: RunSettings
    state: RunState
    report: Report
    problems: ProblemSetManifest | None


ROUNDED_AWAY = 0.01
"""Of an adapter's change: what is less is not told."""


@dataclass(frozen=True)
class Exported:
    """What is in the directory. names: of every version with these tensors, this one among them. base: the weights that
    training began with. adapter_of: what the adapter belongs to; None where it is one model. rounding: of its merged
    adapter, as `merge_adapter` says it."""

    student: str
    version: str
    names: frozenset[str]
    checksum: str
    base: PreparedModel
    origin: Origin
    adapter_of: str | None
    repository: str | None
    rounding: float = 0.0


def render(run: Record, exported: Exported) -> str:
    """The whole README.md, with the metadata that the hub reads at its head."""
    settings, student = run.settings, exported.student
    peers = settings.peers_of(student)
    # The report's own tables, of this student alone: whether a peer might tutor is a row about the peer.
    own = run.report.model_copy(update={"students": [one for one in run.report.students if one.student == student]})
    of_peers = run.report.model_copy(
        update={
            "students": [one for one in run.report.students if one.student in peers],
            "gates": [
                gate.model_copy(update={"pairs": [pair for pair in gate.pairs if pair.student == student]})
                for gate in run.report.gates
            ],
        }
    )
    rows = tested(run, exported)
    scores = score_grid(run.report.model_copy(update={"scores": rows})) if rows else _other_scores(run, exported)
    environment = Environment(
        # Markdown and no HTML, so nothing is escaped; a name that the template has and we do not give is an error.
        loader=PackageLoader("opcod.export", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("card.jinja").render(
        metadata=_metadata(run, exported, rows).to_yaml().strip(),
        run=run,
        settings=settings,
        section=settings.students[student],
        exported=exported,
        peers=peers,
        method=METHODS[settings.run.method],
        largest_rank=largest_rank(settings.lora.rank) if exported.adapter_of else None,
        steps=parse_version(exported.version)[1],
        opcod=installed_version("opcod"),
        messages=_example(settings),
        tested=bool(rows),
        scores="\n".join(markdown(scores)) if scores.rows else "",
        gates="\n".join(markdown(gate_grid(of_peers))) if settings.run.method == "opcod" and run.report.gates else "",
        feedback="\n".join(markdown(feedback_grid(own))) if settings.run.method == "opcod" else "",
        limits=limits(run, exported, rows),
    )


def tested(run: Record, exported: Exported) -> list[ScoreRow]:
    """The student's scores before and after, if the version that was tested last is this one."""
    tests = first_and_last_test(run.state.scores, exported.student)
    if tests is None or tests[1].version not in exported.names:
        return []
    return [row for row in run.report.scores if row.student == exported.student]


def limits(run: Record, exported: Exported, rows: Sequence[ScoreRow]) -> list[str]:
    """What a reader must know before using it, or quoting a number."""
    settings, student = run.settings, exported.student
    found = []
    if settings.students[student].engine == "vllm" and exported.rounding > ROUNDED_AWAY:
        found.append(
            "It was trained and scored as an adapter beside its base model, and is merged here: rounding to "
            f"{settings.students[student].dtype} makes of the adapter's change another one, which is off by "
            f"{100 * exported.rounding:.0f} % of its size. `opcod export --adapter` writes what was scored."
        )
    if not run.report.finished:
        found.append(f"The run was not finished when this was exported ({run.report.status}).")
    if not rows:
        found.append("This version was not tested before and after: nothing is known of what training changed.")
    if unsure := [row.domain for row in rows if row.change_interval[0] <= 0 <= row.change_interval[1]]:
        found.append(f"Within the noise of the test (the interval of the change holds 0): {', '.join(unsure)}.")
    if worse := [row.domain for row in rows if row.change < 0]:
        found.append(f"Worse than before training: {', '.join(worse)}.")
    if below := [row.domain for row in rows if row.after <= row.majority]:
        found.append(f"Not above the best constant answer: {', '.join(below)}.")
    declines = [one for one in run.report.declines if one.student == student]
    alarms = [one for one in run.report.alarms if one.student == student]
    silenced = [one for one in run.report.silenced if one.student == student]
    kinds = [one for one in run.report.kinds if one.student == student] if rows else []
    own = run.report.model_copy(update={"declines": declines, "alarms": alarms, "silenced": silenced, "kinds": kinds})
    return [
        *found,
        *warning_lines(own),
        "It was scored on the run's own kind of problems and on nothing else: what became of everything else that its "
        "base model can do is unknown, and nobody looked at its safety.",
        f"One run with one seed (`run.seed = {settings.run.seed}`). Intervals are over problems, not over seeds.",
        f"It was trained on answers of at most {settings.rollout.max_tokens} tokens, and scored on at most "
        f"{settings.evaluation.max_tokens}.",
        "It learnt from texts of models: its own answers"
        + (" and a peer's feedback, which rules have cleaned" if settings.run.method == "opcod" else "")
        + ". Nobody has read them all.",
    ]


def _other_scores(run: Record, exported: Exported) -> Grid:
    """What the run has measured of these tensors, where it is no test before and after."""
    rows: Rows = [
        [
            score.split.value,
            domain,
            len(score.correct[domain]),
            score.samples,
            score.majority[domain],
            _measured(score, domain),
        ]
        for score in run.state.scores
        if score.student == exported.student and score.version in exported.names
        for domain in score.correct
    ]
    columns = [*plain("problems", "domain", "number", "samples"), *map(percentage, ("majority", "score"))]
    return Grid("Scores, % (95 % interval over problems; majority: the best constant answer's score)", columns, rows)


def _measured(score: Score, domain: str) -> Measured:
    return Measured(score.mean(domain), score_interval(score, domain))


def _metadata(run: Record, exported: Exported, rows: Sequence[ScoreRow]) -> ModelCardData:
    revision = run.problems.partitions["test"].sha256 if run.problems else None
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="opcod",
            # By domain, as the scores are: a mean over all of them would say nothing of the domain that the student is
            # for.
            dataset_name=f"{run.settings.problems.source}, {row.domain}",
            # What is alike in type, config, split and revision the hub takes for one data set.
            dataset_config=row.domain,
            dataset_split="test",
            dataset_revision=revision,
            metric_type="accuracy",
            metric_name=f"avg@{row.samples}",
            metric_value=round(row.after, 6),
        )
        for row in rows
    ]
    return ModelCardData(
        license=exported.origin.licence,
        base_model=exported.origin.hub_id,
        library_name="peft" if exported.adapter_of else "transformers",
        pipeline_tag="text-generation",
        tags=["opcod", run.settings.run.method, "lora" if exported.adapter_of else "merged"],
        # Of what the results are of: without a name huggingface_hub refuses them, and without results it says nothing.
        model_name=f"{run.state.run}, {exported.version}" if results else None,
        eval_results=results or None,
    )


def _example(settings: RunSettings) -> str:
    """A question as the run's format puts it to a student."""
    problem = Problem(id="asked", domain="", kind="", question=QUESTION, answer="")
    asked = format_named(settings.problems.format, settings.feedback.prompt).messages(problem)
    return json.dumps([message.model_dump() for message in asked], ensure_ascii=False)
