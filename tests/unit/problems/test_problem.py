"""Problem sets: invariants, look-up and the content hash."""

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProblemSetError
from shared.problems.formats import format_named
from shared.problems.problem import Problem, ProblemSet, spread


def _problem(problem_id: str, domain: str = "physics", **fields: str) -> Problem:
    return Problem(problem_id, domain, "sum", fields.get("question", f"What is {problem_id}?"), "12")


@pytest.fixture
def small_set() -> ProblemSet:
    return ProblemSet(
        name="small",
        format=format_named("integer"),
        domains=("physics", "chemistry"),
        train=(_problem("p1"), _problem("c1", "chemistry")),
        validation=(_problem("p2"),),
        test=(_problem("p3"),),
        specialise=(_problem("p4"),),
    )


def test_by_id_finds_problems_of_every_partition(small_set: ProblemSet) -> None:
    assert [small_set.by_id(name).id for name in ("p1", "c1", "p2", "p3", "p4")] == ["p1", "c1", "p2", "p3", "p4"]


def test_by_id_names_the_missing_id(small_set: ProblemSet) -> None:
    with pytest.raises(ProblemSetError, match="no problem 'p9'"):
        small_set.by_id("p9")


def test_an_unknown_partition_is_an_error_that_lists_the_known(small_set: ProblemSet) -> None:
    with pytest.raises(ProblemSetError, match="train, validation, test, specialise, got 'dev'"):
        small_set.partition("dev")


def test_an_id_twice_is_refused_across_partitions(small_set: ProblemSet) -> None:
    with pytest.raises(ProblemSetError, match="'p1' occurs twice"):
        replace(small_set, test=(_problem("p1"),))


def test_a_foreign_domain_is_refused(small_set: ProblemSet) -> None:
    with pytest.raises(ProblemSetError, match="'biology', expected one of physics, chemistry"):
        replace(small_set, test=(_problem("b1", "biology"),))


def test_two_equal_domains_are_refused(small_set: ProblemSet) -> None:
    with pytest.raises(ProblemSetError, match="expected different domains, got"):
        replace(small_set, domains=("physics", "physics"))


def test_the_hash_sees_every_change_but_the_name(small_set: ProblemSet) -> None:
    changed = [
        replace(small_set, train=small_set.train[::-1]),
        replace(small_set, test=small_set.validation, validation=small_set.test),
        replace(small_set, specialise=()),
        replace(small_set, domains=("chemistry", "physics")),
        replace(small_set, test=(replace(small_set.test[0], answer="13"),)),
        replace(small_set, test=(replace(small_set.test[0], solution="x = 12"),)),
        replace(small_set, format=format_named("mcq")),
    ]
    hashes = {small_set.content_hash, *(other.content_hash for other in changed)}
    assert len(hashes) == len(changed) + 1
    assert replace(small_set, name="other").content_hash == small_set.content_hash


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from shared.problems.generated import generate; print(generate(3).content_hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(hashes) == 1


@given(size=st.integers(1, 300), limit=st.integers(1, 300))
def test_a_limited_choice_reaches_from_one_end_to_the_other(size: int, limit: int) -> None:
    """No two gaps differ by more than one row, the one behind the last row included."""
    chosen = spread(range(size), limit)
    assert len(chosen) == min(size, limit) == len(set(chosen))
    gaps = {after - before for before, after in itertools.pairwise([*chosen, size])}
    assert chosen[0] == 0 and max(gaps) - min(gaps) <= 1


def test_without_a_limit_all_is_chosen() -> None:
    assert spread("abc", None) == "abc"
