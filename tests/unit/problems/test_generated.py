"""The generated problem set."""

from collections import Counter

import pytest

from shared.errors import ProblemSetError
from shared.problems.generated import DOMAINS, PerKind, draw_partitions, generate, kinds_of
from shared.problems.leaks import leak_key
from shared.problems.problem import PARTITIONS, ProblemSet


@pytest.fixture(scope="module")
def generated() -> ProblemSet:
    return generate(0)


def test_the_default_counts(generated: ProblemSet) -> None:
    counts = {name: len(generated.partition(name)) for name in PARTITIONS}
    assert counts == {"train": 1000, "validation": 100, "test": 320, "specialise": 600}


def test_every_kind_has_the_same_share_of_every_partition(generated: ProblemSet) -> None:
    for name in PARTITIONS:
        kinds = Counter((problem.domain, problem.kind) for problem in generated.partition(name))
        assert len(kinds) == 20
        assert len(set(kinds.values())) == 1


def test_a_prefix_is_balanced(generated: ProblemSet) -> None:
    assert Counter(problem.domain for problem in generated.train[:40]) == dict.fromkeys(DOMAINS, 20)


@pytest.mark.parametrize("domains", [DOMAINS, ("chemistry", "biology"), ("biology", "physics")])
@pytest.mark.parametrize("seed", range(3))
def test_no_question_twice_in_the_whole_set(seed: int, domains: tuple[str, str]) -> None:
    problems = generate(seed, domains)
    assert {problem.domain for problem in problems.all_problems()} == set(problems.domains) == set(domains)
    keys = Counter(leak_key(problem.question) for problem in problems.all_problems())
    assert keys.most_common(1)[0][1] == 1


@pytest.mark.parametrize("count", range(2, 11))
def test_a_set_of_fewer_kinds_has_the_same_problems_of_those(generated: ProblemSet, count: int) -> None:
    fewer = generate(0, kinds=count)
    names = {problem.kind for problem in fewer.all_problems()}
    assert fewer.test == tuple(problem for problem in generated.test if problem.kind in names)
    for domain in DOMAINS:
        chosen = kinds_of(domain, count)
        assert [sum(not kind.guessable for kind in chosen), len(chosen)] == [count // 2, count]
        assert {kind.name for kind in chosen} == {row.kind for row in fewer.train if row.domain == domain}


def test_the_seed_decides() -> None:
    assert generate(1).content_hash != generate(2).content_hash


def test_the_test_partition_does_not_depend_on_the_other_counts(generated: ProblemSet) -> None:
    other = generate(0, per_kind=PerKind(validation=1, train=2, specialise=0))
    assert other.test == generated.test
    assert len(other.train) == 40


def test_the_drawings_are_those_of_the_set(generated: ProblemSet) -> None:
    drawn = draw_partitions(0)
    for name in PARTITIONS:
        assert tuple(item.problem for item in drawn[name]) == generated.partition(name)
        assert all(item.drawn.answer == item.problem.answer for item in drawn[name])


def test_every_row_suits_its_format(generated: ProblemSet) -> None:
    assert [generated.format.refusal(problem) for problem in generated.all_problems()] == [None] * 2020


def test_too_many_problems_are_refused_with_the_kind() -> None:
    with pytest.raises(ProblemSetError, match="too few distinct questions"):
        generate(0, per_kind=PerKind(train=600))
