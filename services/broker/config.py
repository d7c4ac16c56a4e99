"""What the broker takes of a run's settings: the plan, with the problem set it is about."""

from collections.abc import Sequence
from dataclasses import replace

from services.broker.machine.plan import Plan, PlannedProblem
from shared.config.settings import RunSettings
from shared.contracts.run import Split
from shared.errors import ConfigError
from shared.method.metrics import majority_baseline
from shared.problems.formats import format_named
from shared.problems.loading import problems_of
from shared.problems.problem import Problem, ProblemSet, spread


def load_problems(settings: RunSettings) -> ProblemSet:
    """Raises ProblemSetError or ConfigError if the set cannot be used with these students."""
    domains = (settings.students["a"].domain, settings.students["b"].domain)
    problems = problems_of(settings)
    problems = replace(problems, format=format_named(settings.problems.format, settings.feedback.prompt))
    share = settings.problems.per_step // 2 if settings.problems.balance_domains else settings.problems.per_step
    pools = [[p for p in problems.train if p.domain == d] for d in domains]
    smallest = min(map(len, pools)) if settings.problems.balance_domains else len(problems.train)
    if share > smallest:
        raise ConfigError(
            f"problems.per_step: a step would need {share} different training problems, there are {smallest}"
        )
    return problems


def make_plan(run: str, settings: RunSettings, problems: ProblemSet) -> Plan:
    evaluation = settings.evaluation
    partitions = {
        Split.VALIDATION: per_domain(problems, problems.validation, evaluation.validation_problems),
        Split.TEST: per_domain(problems, problems.test, evaluation.test_problems),
    }
    return Plan(
        run=run,
        seed=settings.run.seed,
        rounds=settings.run.rounds,
        steps_per_round=settings.run.steps_per_round,
        parallel=settings.run.schedule == "parallel",
        gate_mode=settings.gate_mode,
        tau=settings.gate.tau,
        max_break_rate=settings.gate.max_break_rate,
        strong_domain={name: student.domain for name, student in sorted(settings.students.items())},
        train=_planned(problems.train),
        partitions={split: _planned(chosen) for split, chosen in partitions.items()},
        majority={split: majority_by_domain(chosen, problems.domains) for split, chosen in partitions.items()},
        samples={Split.VALIDATION: evaluation.validation_samples, Split.TEST: evaluation.test_samples},
        rollout_samples=settings.rollout.samples,
        problems_per_job=evaluation.problems_per_job,
        problems_per_step=settings.problems.per_step,
        balance_domains=settings.problems.balance_domains,
        tutor_timeout_s=settings.feedback.tutor_timeout_s,
        revise_share=settings.feedback.revise_share,
        alarms=settings.alarms,
        hysteresis=settings.gate.hysteresis,
        latest_tutor=settings.gate.tutor_source == "latest",
    )


def _planned(problems: tuple[Problem, ...]) -> tuple[PlannedProblem, ...]:
    return tuple(PlannedProblem(problem.id, problem.domain) for problem in problems)


def per_domain(problems: ProblemSet, partition: tuple[Problem, ...], limit: int | None) -> tuple[Problem, ...]:
    """`limit` problems of each domain, domain by domain, spread evenly over the partition. Raises ConfigError."""
    chosen: list[Problem] = []
    for domain in problems.domains:
        of_domain = [problem for problem in partition if problem.domain == domain]
        if limit is not None and limit > len(of_domain):
            raise ConfigError(f"expected at least {limit} problems of {domain} to evaluate on, got {len(of_domain)}")
        chosen += spread(of_domain, limit)
    return tuple(chosen)


def majority_by_domain(problems: Sequence[Problem], domains: Sequence[str]) -> dict[str, float]:
    """What the best constant answer scores, in each of `domains` that has problems."""
    answers = {domain: [problem.answer for problem in problems if problem.domain == domain] for domain in domains}
    return {domain: majority_baseline(gold) for domain, gold in answers.items() if gold}
