"""Probing a pair: its students are asked, what they said is judged as a broker does it, and the trainers measure.

What always holds: nothing is trained, nothing of a run is read or written, and the same settings, seed and counts ask
the same questions with the same seeds.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from opcod.local.answering import answer
from opcod.local.gpus import Shares, share_out, visible
from opcod.local.nodes import on_one_node
from opcod.local.processes import SILENT_S, ProcessSpec, launch, log_tail, require_success, until_ended
from opcod.probe.questions import (
    Asked,
    Error,
    Heard,
    Key,
    ProbePlan,
    errors,
    first_questions,
    last_questions,
    right,
    taught_answers,
    tutor_questions,
)
from shared.config.settings import Paths
from shared.contracts.ids import version_name
from shared.contracts.jobs import PromptOutput, Questions
from shared.contracts.messages import Sampling
from shared.contracts.probing import Reach, TaughtAnswer
from shared.gpus import VISIBLE, gpus_here
from shared.problems.hints import calls_wrong, names_formula, names_numbers
from shared.problems.problem import Judgement, Problem
from shared.results.probing import Probe, ProbedProblem, ToldError, tally

Say = Callable[[str], None]
Stopped = Callable[[], bool]


def probe(name: str, paths: Paths, plan: ProbePlan, say: Say, stopped: Stopped) -> Probe:
    """Raises ConfigError or OpcodError with the end of a log, StoppedError once `stopped` says so.

    paths: of a run that has its settings and its models, and nothing else.
    """
    started, settings = time.monotonic(), plan.settings
    asking = Questioning(paths, plan, say, stopped)
    names, count = " and ".join(settings.names), f"{len(plan.problems)} problems"
    heard = asking.ask(f"{names} solve {count}", first_questions(plan), settings.rollout.sampling, plan.samples)
    wrong = errors(plan, heard)
    told = asking.ask(f"{names} tutor on {len(wrong)} errors", tutor_questions(plan, wrong), settings.feedback.sampling)
    # One sample: a tutor speaks once about an answer, as in a run.
    raw = {key: output.samples[0].text for key, output in told.items()}
    judged = {error.key: plan.format.judge_feedback(raw[error.key], error.problem) for error in wrong}
    again = last_questions(plan, wrong, judged, heard)
    revised = asking.ask(f"{names} answer again, {len(again)} times", again, settings.rollout.sampling)
    reach = asking.reach(taught_answers(plan, wrong, judged, heard))
    rows = tally(_probed(plan, {**heard, **revised}, wrong, raw, judged, reach), settings.rollout.samples)
    return Probe(
        name=name,
        seed=settings.run.seed,
        method=settings.run.method,
        tutoring=settings.gate_mode != "never",
        problems_per_kind=max(row.problems for row in rows),
        samples=plan.samples,
        rollouts=settings.rollout.samples,
        temperature=settings.rollout.temperature,
        seconds=round(time.monotonic() - started, 1),
        rows=rows,
    )


class Questioning:
    """Both students, or both trainers, at once."""

    def __init__(self, paths: Paths, plan: ProbePlan, say: Say, stopped: Stopped) -> None:
        self._paths = paths
        self._plan = plan
        self._settings = plan.settings
        self._say = say
        self._stopped = stopped
        self._shares: Shares = share_out(on_one_node(plan.settings), gpus_here())

    def ask(self, title: str, asked: Asked, sampling: Sampling, samples: int = 1) -> dict[Key, PromptOutput]:
        """`samples` answers to each question, of the student that it is for."""
        keys = {s: [key for key in asked if self._answering(key) == s] for s in self._settings.names}
        # A student that is asked nothing is not started: that costs the loading of a model.
        those = [student for student in self._settings.names if keys[student]]
        if not those:
            return {}
        self._say(title)
        questions = [
            Questions(
                student=student,
                version=version_name(student, 0),
                samples=samples,
                sampling=sampling,
                questions=tuple(asked[key] for key in keys[student]),
            )
            for student in those
        ]
        answers = answer(self._paths, questions, self._say, self._stopped, self._shares)
        return {
            key: output
            for student, each in zip(those, answers, strict=True)
            for key, output in zip(keys[student], each.outputs, strict=True)
        }

    def reach(self, taught: Mapping[Key, TaughtAnswer]) -> dict[Key, Reach]:
        """How far the loss reaches into each answer that fits its model; of none that a scripted student gave."""
        keys = {s: [key for key in taught if key.student == s] for s in self._settings.names}
        those = [s for s in self._settings.names if keys[s] and self._settings.students[s].engine != "scripted"]
        if not those:
            return {}
        self._say(f"the loss of {' and '.join(those)} on {len(taught)} errors")
        with tempfile.TemporaryDirectory(prefix="opcod-") as directory:
            specs = {s: self._trainer(s, [taught[key] for key in keys[s]], Path(directory)) for s in those}
            running = {student: launch(spec) for student, spec in specs.items()}
            until_ended(
                list(running.values()),
                "measuring the loss",
                timeout_s=SILENT_S,
                report=lambda: self._say(f"the loss is being measured ({_standing(specs)})"),
                stopped=self._stopped,
                progress=lambda: [spec.log_file.stat().st_size for spec in specs.values()],
            )
            found: dict[Key, Reach | None] = {}
            for student, process in running.items():
                require_success(f"measuring the loss of {student}", process.returncode, specs[student].log_file)
                found |= zip(keys[student], _reaches(specs[student].log_file, len(keys[student])), strict=True)
        return {key: reach for key, reach in found.items() if reach is not None}

    def _trainer(self, student: str, taught: Sequence[TaughtAnswer], directory: Path) -> ProcessSpec:
        file = directory / f"{student}.jsonl"
        file.write_text("".join(each.model_dump_json() + "\n" for each in taught), encoding="utf-8")
        arguments = ["--student", student, "--run-dir", str(self._paths.run_dir), "--answers", str(file)]
        service = f"trainer-{student}"
        environment = {VISIBLE: visible(self._shares[service])} if service in self._shares else {}
        module = "services.trainer.offline.probing"
        return ProcessSpec(service, module, directory / f"{student}.log", environment, arguments)

    def _answering(self, key: Key) -> str:
        return self._plan.peer_of(key.student) if key.what == "feedback" else key.student


def _reaches(log_file: Path, count: int) -> Iterator[Reach | None]:
    """What it says of `count` answers, among lines for people, and those of libraries as their processes end."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in [each for each in lines if each == "null" or each.startswith('{"tokens"')][-count:]:
        yield None if line == "null" else Reach.model_validate_json(line)


def _standing(specs: Mapping[str, ProcessSpec]) -> str:
    return "; ".join(f"{student}: {log_tail(spec.log_file, lines=1)}" for student, spec in specs.items())


def _probed(
    plan: ProbePlan,
    heard: Heard,
    wrong: Sequence[Error],
    raw: Mapping[Key, str],
    judged: Mapping[Key, Judgement],
    reach: Mapping[Key, Reach],
) -> list[ProbedProblem]:
    """What came of every question, by student and problem."""

    def graded(student: str, problem: Problem, kind: str) -> tuple[bool, ...] | None:
        found = [heard[key] for key in heard if key.student == student and key[1:3] == (problem.id, kind)]
        texts = [sample.text for output in found for sample in output.samples]
        return tuple(right(plan, problem, text) for text in texts) if texts else None

    def told(error: Error) -> ToldError:
        drawn = plan.drawn[error.problem.id].drawn if error.problem.id in plan.drawn else None
        said, delivered = raw[error.key], judged[error.key].delivered
        revised = heard.get(error.key._replace(what="revision"))
        whole = drawn is None or (names_formula(delivered or "", drawn) and names_numbers(delivered or "", drawn))
        return ToldError(
            formula=names_formula(said, drawn) if drawn else None,
            numbers=names_numbers(said, drawn) if drawn else None,
            called_wrong=calls_wrong(said),
            delivered=delivered is not None,
            told=delivered is not None and whole,
            fixed=right(plan, error.problem, revised.samples[0].text) if revised else None,
            reach=reach.get(error.key),
        )

    of = {(s, p.id): [e for e in wrong if e.key[:2] == (s, p.id)] for s in plan.settings.names for p in plan.problems}
    return [
        ProbedProblem(
            student=student,
            domain=problem.domain,
            kind=problem.kind,
            plain=graded(student, problem, "plain") or (),
            hinted=graded(student, problem, "hint"),
            solution_shown=graded(student, problem, "solution"),
            errors=tuple(map(told, of[student, problem.id])),
        )
        for student in plan.settings.names
        for problem in plan.problems
    ]
