"""Which problems a step gets: seeded, every problem once an epoch, balanced if asked, never twice in a step."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.config import make_plan
from services.broker.machine.plan import Plan, PlannedProblem
from shared.contracts.run import Split
from shared.errors import ConfigError
from shared.problems.evaluation import per_domain
from shared.problems.loading import load_problems
from tests.fakes.broker import broker_settings
from tests.fakes.world import small_plan

DOMAINS = ("physics", "chemistry")


def pool(size: int) -> tuple[PlannedProblem, ...]:
    return tuple(PlannedProblem(f"p{number}", DOMAINS[number % 2]) for number in range(size))


def ids(problems: list[PlannedProblem]) -> list[str]:
    return [problem.id for problem in problems]


def test_equal_seeds_draw_equal_problems_and_other_seeds_others() -> None:
    drawn = [ids(small_plan(train=pool(40), seed=seed).step_problems("a", 3)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_students_and_steps_draw_differently() -> None:
    plan = small_plan(train=pool(40))
    assert ids(plan.step_problems("a", 1)) != ids(plan.step_problems("b", 1))
    assert not set(ids(plan.step_problems("a", 1))) & set(ids(plan.step_problems("a", 2)))


def test_kinds_come_in_turn() -> None:
    train = tuple(
        PlannedProblem(f"{kind}{n}", DOMAINS[0], kind) for kind, size in (("x", 5), ("y", 3)) for n in range(size)
    )
    plan = small_plan(train=train, problems_per_step=2, balance_kinds=True)
    drawn = [sorted(p.kind for p in plan.step_problems("a", step)) for step in range(1, 9)]
    assert drawn[:3] == [["x", "y"]] * 3 and drawn[3] == ["x", "x"], "then one kind has no more in this epoch"
    assert drawn[4:] == drawn[:4]
    names = [name for step in range(1, 5) for name in ids(plan.step_problems("a", step))]
    assert sorted(names) == sorted(ids(list(train))) and names != ids(list(train))


def test_an_epoch_holds_every_problem_once() -> None:
    plan = small_plan(train=pool(12), problems_per_step=4)
    epochs = [
        [name for step in steps for name in ids(plan.step_problems("a", step))] for steps in ((1, 2, 3), (4, 5, 6))
    ]
    assert [Counter(epoch) for epoch in epochs] == [Counter(ids(list(pool(12))))] * 2
    assert epochs[0] != epochs[1], "each epoch has an order of its own"


@pytest.mark.parametrize(
    ("balanced", "drawn"),
    [
        ((), ["p10 p3 p7 p2 p0 p1", "p9 p4 p6 p5 p8 p1", "p9 p5 p6 p10 p8 p2"]),
        (("domains",), ["p4 p1 p8 p6 p0 p3", "p5 p2 p7 p9 p6 p3", "p10 p4 p7 p3 p0 p6"]),
        (("kinds",), ["p10 p3 p2 p7 p1 p0", "p9 p4 p5 p6 p8 p1", "p1 p9 p10 p5 p8 p2"]),
        (("domains", "kinds"), ["p1 p4 p8 p3 p6 p9", "p5 p2 p7 p0 p6 p9", "p10 p4 p7 p3 p0 p9"]),
    ],
)
def test_a_seed_draws_these_problems(balanced: tuple[str, ...], drawn: list[str]) -> None:
    """Those of a run that is resumed are the ones that it began with."""
    train = tuple(PlannedProblem(f"p{n}", DOMAINS[n % 3 == 0], "xy"[n % 2]) for n in range(11))
    ways = {f"balance_{way}": way in balanced for way in ("domains", "kinds")}
    plan = small_plan(train=train, problems_per_step=6, seed=7, **ways)
    assert [" ".join(ids(plan.step_problems("a", step))) for step in (1, 2, 3)] == drawn


@pytest.mark.parametrize("balanced", [False, True])
def test_a_step_shuffles_each_pool_once_an_epoch(monkeypatch: pytest.MonkeyPatch, balanced: bool) -> None:
    """A training set has 100,000 problems, and the broker does nothing else meanwhile."""
    plan = small_plan(train=pool(40), problems_per_step=16, balance_domains=balanced)
    seeds: list[int] = []
    order = Plan._order

    def counted(plan: Plan, seed: int, of: tuple[PlannedProblem, ...]) -> list[PlannedProblem]:
        seeds.append(seed)
        return order(plan, seed, of)

    monkeypatch.setattr(Plan, "_order", counted)
    for step, epochs in ((1, 1), (3, 2)):
        seeds.clear()
        plan.step_problems("a", step)
        assert len(seeds) == len(set(seeds)) == epochs * (1 + balanced)


@given(size=st.integers(1, 30), per_step=st.integers(1, 30), step=st.integers(1, 20), seed=st.integers(0, 5))
def test_a_step_never_holds_a_problem_twice(size: int, per_step: int, step: int, seed: int) -> None:
    drawn = ids(small_plan(train=pool(size), problems_per_step=per_step, seed=seed).step_problems("a", step))
    assert len(drawn) == len(set(drawn)) == min(size, per_step)


@given(size=st.integers(2, 20), per_step=st.integers(1, 7), seed=st.integers(0, 3))
def test_no_problem_waits_longer_than_two_epochs(size: int, per_step: int, seed: int) -> None:
    plan = small_plan(train=pool(size), problems_per_step=per_step, seed=seed)
    steps = -(-2 * size // per_step)
    seen = {name for step in range(1, steps + 1) for name in ids(plan.step_problems("a", step))}
    assert seen == set(ids(list(pool(size))))


@given(step=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_balanced_step_takes_equally_many_of_each_domain(step: int, seed: int) -> None:
    uneven = tuple(PlannedProblem(f"p{n}", DOMAINS[0] if n < 4 else DOMAINS[1]) for n in range(24))
    plan = small_plan(train=uneven, problems_per_step=6, balance_domains=True, seed=seed)
    assert Counter(problem.domain for problem in plan.step_problems("a", step)) == {"physics": 3, "chemistry": 3}


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 500, 500), (0.1, 25, 80)])
def test_the_share_of_groups_that_are_revised(share: float, low: int, high: int) -> None:
    plan = small_plan(revise_share=share)
    revised = [plan.revises("a", step, f"p{n}") for step in range(50) for n in range(10)]
    assert low <= sum(revised) <= high
    assert revised == [plan.revises("a", step, f"p{n}") for step in range(50) for n in range(10)]


def test_chunks_cover_a_split_in_order() -> None:
    plan = small_plan(problems_per_job=5)
    chunks = [plan.chunk(Split.TEST, index) for index in range(plan.chunks(Split.TEST))]
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    assert tuple(problem for chunk in chunks for problem in chunk) == plan.partitions[Split.TEST]


def test_settings_become_a_plan_with_the_wanted_problems_of_each_domain() -> None:
    settings = broker_settings("evaluation.test_problems=3", "evaluation.validation_problems=2")
    problems = load_problems(settings)
    plan = make_plan("r", settings, problems)
    assert Counter(p.domain for p in plan.partitions[Split.TEST]) == {"physics": 3, "chemistry": 3}
    assert Counter(p.domain for p in plan.partitions[Split.VALIDATION]) == {"physics": 2, "chemistry": 2}
    assert {problem.id for problem in plan.train} == {problem.id for problem in problems.train}
    assert plan.strong_domain == {"a": "physics", "b": "chemistry"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("problems.per_step=5000", "a step would need 2500 different training problems"),
        ("evaluation.test_problems=5000", "expected at least 5000 problems of physics"),
        ("problems.source=/nowhere", "/nowhere"),
    ],
)
def test_settings_that_the_problems_cannot_meet_are_refused(override: str, message: str) -> None:
    settings = broker_settings(override)
    with pytest.raises(ConfigError, match=message):
        make_plan("r", settings, load_problems(settings))


def test_the_plan_holds_the_best_constant_answer_of_what_is_evaluated() -> None:
    """Over the chosen problems, not over the whole partition."""
    settings = broker_settings()
    problems = load_problems(settings)
    plan = make_plan("r", settings, problems)
    for split, by_domain in plan.majority.items():
        for domain, score in by_domain.items():
            gold = Counter(problems.by_id(p.id).answer for p in plan.partitions[split] if p.domain == domain)
            assert score == max(gold.values()) / gold.total()
    assert set(plan.majority[Split.TEST]) == set(DOMAINS)


def test_what_is_evaluated_has_every_kind_of_problem_where_the_limit_does_not_divide() -> None:
    """The kinds stand one after the other in a domain; a limit above half of it takes none of them away."""
    problems = load_problems(broker_settings())
    sorted_by_kind = tuple(sorted(problems.test, key=lambda problem: problem.kind))
    kept = per_domain(problems, sorted_by_kind, 100)
    for domain in problems.domains:
        there = Counter(problem.kind for problem in sorted_by_kind if problem.domain == domain)
        chosen = Counter(problem.kind for problem in kept if problem.domain == domain)
        assert chosen.total() == 100
        assert all(abs(chosen[kind] - count * 100 / there.total()) < 1 for kind, count in there.items())


def test_a_step_is_shared_out_evenly_to_as_many_domains_as_there_are() -> None:
    train = tuple(PlannedProblem(f"{domain}{n}", domain) for domain in "xyz" for n in range(7))
    plan = small_plan(
        train=train, strong_domain={"a": "x", "b": "x", "c": "y"}, balance_domains=True, problems_per_step=6
    )
    assert plan.domains == ("x", "y", "z"), "those of the students first, then what nobody is strong in"
    for step in (1, 2, 3):
        assert Counter(problem.domain for problem in plan.step_problems("b", step)) == dict.fromkeys("xyz", 2)
    assert plan.training_shares() == dict.fromkeys("xyz", pytest.approx(1 / 3))
