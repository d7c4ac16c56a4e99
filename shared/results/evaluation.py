"""What `opcod eval` says about one version of a student on some problems. Pure; the same answers give the same bytes.

The score is avg@k: the mean over problems of the share of their k samples that strict grading accepts. Everything
else stands beside it.
"""

import hashlib
import re
from collections.abc import Sequence

from shared.contracts.jobs import PromptOutput
from shared.contracts.messages import Sampling
from shared.contracts.run import AnswerCounts
from shared.problems.evaluation import answer_counts, grade_evaluation, majority_by_domain
from shared.problems.leaks import question_key
from shared.problems.problem import Problem, ProblemFormat
from shared.results.figures import Interval, Part, mean_interval
from shared.results.report import answer_rates


class Subject(Part):
    """What was evaluated, how. problems_hash: sha256 over the problems; checksum: of the version's tensors.

    seen_in_training: problems whose question stands in what this run trains or specialises on.
    """

    run: str
    student: str
    version: str
    checksum: str
    source: str
    partition: str
    problems: int
    problems_hash: str
    format: str
    samples: int
    sampling: Sampling
    seed: int
    seen_in_training: int

    @property
    def file_name(self) -> str:
        """`a@v12-test-<hash>.json`: another hash for everything that could change a number."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        # A source may be a path: what is no letter or digit becomes a dash, and only its end is kept. Two that look
        # alike then still differ in the hash.
        own = self.source == self.partition
        where = self.partition if own else f"{re.sub(r'[^A-Za-z0-9]+', '-', self.source).strip('-')}-{self.partition}"
        return f"{self.version}-{where[-80:]}-{digest[:12]}.json"


class DomainScore(Part):
    """Shares. score: avg@k, with its 95 % interval over problems; majority: the best constant answer's score."""

    domain: str
    problems: int
    score: float
    interval: Interval
    majority: float
    lenient: float
    format_ok: float
    truncated: float


class ProblemScore(Part):
    """Counts over the samples of one problem."""

    id: str
    domain: str
    correct: int
    answers: AnswerCounts


class Evaluation(Part):
    """The file of an evaluation, and its `--json`."""

    evaluated: Subject
    domains: list[DomainScore]
    problems: list[ProblemScore]


def evaluate(
    evaluated: Subject, problems: Sequence[Problem], outputs: Sequence[PromptOutput], format_: ProblemFormat
) -> Evaluation:
    """outputs: of `problems`, in the same order."""
    graded = grade_evaluation(outputs, problems, format_)
    domains = list(dict.fromkeys(problem.domain for problem in problems))
    majority = majority_by_domain(problems, domains)
    scores = []
    for domain in domains:
        # The problem is the unit: samples of one problem are not independent, and an interval over all of them would be
        # too narrow.
        shares = [graded.correct[p.id] / evaluated.samples for p in problems if p.domain == domain]
        rates = answer_rates(graded.answers[domain], len(shares) * evaluated.samples)
        scores.append(
            DomainScore(
                domain=domain,
                problems=len(shares),
                score=sum(shares) / len(shares),
                interval=mean_interval(evaluated.student, domain, shares),
                majority=majority[domain],
                **rates.model_dump(),
            )
        )
    each = [
        ProblemScore(
            id=problem.id,
            domain=problem.domain,
            correct=graded.correct[problem.id],
            answers=answer_counts(output, problem, format_),
        )
        for problem, output in zip(problems, outputs, strict=True)
    ]
    return Evaluation(evaluated=evaluated, domains=scores, problems=each)


def seen(problems: Sequence[Problem], training: Sequence[Problem]) -> int:
    """How many of `problems` ask what one of `training` asks, but for case, punctuation and the order of options."""
    known = {question_key(problem.question) for problem in training}
    return sum(question_key(problem.question) in known for problem in problems)
