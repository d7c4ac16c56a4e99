"""What the broker takes of a run's settings: the plan."""

from services.broker.machine.plan import Plan, PlannedProblem
from services.broker.machine.sharing import SharingPlan
from shared.config.settings import RunSettings
from shared.contracts.run import Split
from shared.problems.evaluation import evaluated_problems, majority_by_domain
from shared.problems.problem import Problem, ProblemSet


def make_plan(run: str, settings: RunSettings, problems: ProblemSet) -> Plan:
    evaluation = settings.evaluation
    partitions = evaluated_problems(settings, problems)
    kind = SharingPlan if settings.run.method == "hacpo" else Plan
    return kind(
        run=run,
        seed=settings.run.seed,
        rounds=settings.run.rounds,
        steps_per_round=settings.run.steps_per_round,
        parallel=settings.run.schedule == "parallel",
        gate_mode=settings.gate_mode,
        gate_scope=settings.gate.scope,
        tutor_choice=settings.tutoring.choice,
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
        balance_kinds=settings.problems.balance_kinds,
        tutor_timeout_s=settings.feedback.tutor_timeout_s,
        revise_share=settings.feedback.revise_share,
        alarms=settings.alarms,
        hysteresis=settings.gate.hysteresis,
        keep_best=settings.run.keep_best,
        latest_tutor=settings.gate.tutor_source == "latest",
        streamed=settings.optimizer.mini_batches if settings.run.stream else None,
    )


def _planned(problems: tuple[Problem, ...]) -> tuple[PlannedProblem, ...]:
    return tuple(PlannedProblem(problem.id, problem.domain, problem.kind) for problem in problems)
