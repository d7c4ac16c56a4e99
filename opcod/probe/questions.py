"""What a probe asks the students, and the prompts that follow from what they said. Pure.

Three times, each built on what came before: problems plain, with the right hint and with a worked solution; tutors
about their peers' errors; revisions with what the tutors said, and right answers of their own shown where a problem set
has no worked solutions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shared.config.settings import RunSettings
from shared.contracts.ids import seed_of
from shared.contracts.jobs import PromptOutput, Question
from shared.contracts.messages import ChatMessage
from shared.contracts.probing import TaughtAnswer
from shared.errors import ConfigError
from shared.method.sanitizing import strip_thinking
from shared.problems.generated import DrawnProblem
from shared.problems.hints import drawings, right_hint
from shared.problems.loading import load_problems
from shared.problems.problem import Judgement, Problem, ProblemFormat, spread

What = Literal["plain", "hint", "solution", "feedback", "revision"]


class Key(NamedTuple):
    """student: whose answer it is or is about. number: which of its errors, or which of several alike questions."""

    student: str
    problem: str
    what: What
    number: int = 0


Asked = Mapping[Key, Question]
Heard = Mapping[Key, PromptOutput]


@dataclass(frozen=True)
class ProbePlan:
    """What is probed. drawn: by problem id, of generated problems."""

    settings: RunSettings
    problems: Sequence[Problem]
    format: ProblemFormat
    drawn: Mapping[str, DrawnProblem]
    samples: int

    def peer_of(self, student: str) -> str:
        # `plan_probe` has refused other than two.
        (peer,) = self.settings.peers_of(student)
        return peer

    def question(self, key: Key, messages: Sequence[ChatMessage]) -> Question:
        """Seeded alike for both students, so that they are compared on the same draws."""
        seed = seed_of(self.settings.run.seed, "probe", key.problem, key.what, key.number)
        return Question(messages=tuple(messages), seed=seed)


@dataclass(frozen=True)
class Error:
    """A wrong answer of a student; output: whose first such sample is meant by `sample`."""

    key: Key
    problem: Problem
    output: PromptOutput
    sample: int

    @property
    def text(self) -> str:
        return self.output.samples[self.sample].text


def plan_probe(settings: RunSettings, per_kind: int, samples: int) -> ProbePlan:
    """`per_kind` training problems of each kind, evenly spread. Raises as `load_problems`, and ConfigError for other
    than two students."""
    if len(settings.students) != 2:
        raise ConfigError(f"students: expected two to probe, got {', '.join(settings.names)}; name a preset of a pair")
    loaded = load_problems(settings)
    kinds: dict[tuple[str, str], list[Problem]] = {}
    # The sort is stable, so within a domain the set's own order stays.
    for problem in sorted(loaded.train, key=lambda each: loaded.domains.index(each.domain)):
        kinds.setdefault((problem.domain, problem.kind), []).append(problem)
    chosen = [problem for group in kinds.values() for problem in spread(group, per_kind)]
    return ProbePlan(settings, chosen, loaded.format, drawings(settings), samples)


def first_questions(plan: ProbePlan) -> Asked:
    """Every problem to both students: plain, with the right hint, with the worked solution."""
    asked: dict[Key, Question] = {}
    for student in plan.settings.names:
        for problem in plan.problems:
            plain = Key(student, problem.id, "plain")
            asked[plain] = plan.question(plain, plan.format.messages(problem))
            if problem.id in plan.drawn:
                hint = Key(student, problem.id, "hint")
                shown = right_hint(plan.drawn[problem.id], plan.format)
                asked[hint] = plan.question(hint, _shown(plan, problem, feedback=shown))
            if problem.solution is not None:
                solved = Key(student, problem.id, "solution")
                asked[solved] = plan.question(solved, _shown(plan, problem, solution=problem.solution))
    return asked


def errors(plan: ProbePlan, heard: Heard) -> list[Error]:
    """The distinct wrong answers to each problem, in order."""
    found = []
    for student in plan.settings.names:
        for problem in plan.problems:
            output = heard[Key(student, problem.id, "plain")]
            texts = [sample.text for sample in output.samples]
            wrong = dict.fromkeys(text for text in texts if not right(plan, problem, text))
            found += [
                Error(Key(student, problem.id, "feedback", number), problem, output, texts.index(text))
                for number, text in enumerate(wrong)
            ]
    return found


def tutor_questions(plan: ProbePlan, wrong: Sequence[Error]) -> Asked:
    """Each error to the peer of whose it is; keys name the tutee."""
    domains = {name: section.domain for name, section in plan.settings.students.items()}
    return {
        error.key: plan.question(
            error.key,
            plan.format.feedback_messages(
                error.problem,
                error.text,
                peer_domain=domains[plan.peer_of(error.key.student)],
                agent_domain=domains[error.key.student],
            ),
        )
        for error in wrong
    }


def last_questions(plan: ProbePlan, wrong: Sequence[Error], judged: Mapping[Key, Judgement], heard: Heard) -> Asked:
    """Revisions with the delivered feedback alone, and what is shown a right answer for lack of a worked solution."""
    asked: dict[Key, Question] = {}
    for error in wrong:
        delivered = judged[error.key].delivered
        if delivered is not None:
            key = error.key._replace(what="revision")
            asked[key] = plan.question(key, _shown(plan, error.problem, feedback=delivered))
    for student, problem in _unsolved(plan):
        shown = right_answer(plan, heard, student, problem) or right_answer(plan, heard, plan.peer_of(student), problem)
        # As many questions as there would be samples: this call asks for one answer to each.
        for number in range(plan.samples if shown is not None else 0):
            key = Key(student, problem.id, "solution", number)
            asked[key] = plan.question(key, _shown(plan, problem, solution=shown))
    return asked


def taught_answers(
    plan: ProbePlan, wrong: Sequence[Error], judged: Mapping[Key, Judgement], heard: Heard
) -> dict[Key, TaughtAnswer]:
    """The errors as a step would train on them: shown the delivered feedback and a right answer to the same problem, of
    which one at least must be there."""
    taught = {}
    for error in wrong:
        feedback = judged[error.key].delivered
        solution = right_answer(plan, heard, error.key.student, error.problem)
        if feedback is not None or solution is not None:
            taught[error.key] = TaughtAnswer(
                prompt_token_ids=error.output.prompt_token_ids,
                token_ids=error.output.samples[error.sample].token_ids,
                teacher_messages=tuple(_shown(plan, error.problem, solution=solution, feedback=feedback)),
            )
    return taught


def right_answer(plan: ProbePlan, heard: Heard, student: str, problem: Problem) -> str | None:
    """The student's earliest right answer, if it shows anything once its thinking is removed."""
    samples = heard[Key(student, problem.id, "plain")].samples
    shown = (strip_thinking(sample.text) for sample in samples if right(plan, problem, sample.text))
    return next((text for text in shown if text.strip()), None)


def right(plan: ProbePlan, problem: Problem, text: str) -> bool:
    return plan.format.grade(text, problem.answer) == 1.0


def _unsolved(plan: ProbePlan) -> Iterator[tuple[str, Problem]]:
    return ((student, each) for student in plan.settings.names for each in plan.problems if each.solution is None)


def _shown(
    plan: ProbePlan, problem: Problem, *, solution: str | None = None, feedback: str | None = None
) -> list[ChatMessage]:
    return plan.format.teacher_messages(problem, solution=solution, feedback=feedback)
