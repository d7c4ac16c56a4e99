"""The tallies of a probe, and which link of the chain it names."""

import pytest

from shared.contracts.probing import Reach
from shared.results.probing import Finding, KindRow, ProbedProblem, ToldError, finding, tally


def told(*, formula: bool = True, fixed: bool | None = True, reach: Reach | None = None) -> ToldError:
    """An error whose tutor names the numbers, says that it is wrong, and is let through."""
    return ToldError(
        formula=formula,
        numbers=True,
        called_wrong=True,
        delivered=True,
        told=formula,
        fixed=fixed,
        reach=reach,
    )


def probed(student: str, plain: str, *errors: ToldError, hinted: str = "") -> ProbedProblem:
    """plain, hinted: a `+` for each right answer, a `-` for each wrong one."""
    return ProbedProblem(
        student=student,
        domain="physics",
        kind="ice",
        plain=tuple(answer == "+" for answer in plain),
        hinted=tuple(answer == "+" for answer in hinted) or None,
        solution_shown=None,
        errors=errors,
    )


def row(**changes: object) -> KindRow:
    """Of a kind that can be taught."""
    fields: dict[str, object] = {
        "student": "b",
        "domain": "physics",
        "kind": "ice",
        "problems": 3,
        "answers": 12,
        "plain": 0.1,
        "chance": 0.2,
        "hinted": 0.9,
        "solution_shown": 1.0,
        "errors": 10,
        "formula": 1.0,
        "numbers": 1.0,
        "true_verdict": None,
        "delivered": 1.0,
        "told": 1.0,
        "fixed": 0.9,
        "unseen": 0.1,
        "differing": 20,
        "unseen_where_differing": 0.2,
        "pull": 0.01,
        "finding": "teachable",
    }
    return KindRow.model_validate(fields | changes)


def test_shares_are_over_all_problems_of_a_kind() -> None:
    one = probed("a", "+-", told(formula=False, fixed=False), hinted="++")
    two = probed("a", "--", told(), told(fixed=None), hinted="+-")
    mine, theirs = tally([one, two, probed("b", "++")], rollouts=2)
    assert (mine.student, mine.problems, mine.answers, mine.plain) == ("a", 2, 4, 0.25)
    assert (mine.errors, mine.formula, mine.numbers, mine.told) == (3, 2 / 3, 1.0, 2 / 3)
    assert (mine.hinted, mine.fixed, mine.solution_shown) == (0.75, 0.5, None)
    assert (theirs.plain, theirs.errors, theirs.formula, theirs.finding) == (1.0, 0, None, "known")


def test_a_group_of_rollouts_finds_a_right_one_by_problem_and_not_by_the_mean() -> None:
    always, never = probed("a", "++"), probed("a", "--")
    [mine, _] = tally([always, never, probed("b", "+")], rollouts=6)
    assert mine.chance == 0.5


def test_tokens_are_counted_over_all_errors_and_the_pull_over_the_unseen_ones() -> None:
    first, second = Reach(tokens=10, differing=4, unseen=3, pull=0.06), Reach(tokens=10, differing=2, unseen=0, pull=0)
    [mine, _] = tally([probed("a", "--", told(reach=first), told(reach=second)), probed("b", "+")], rollouts=1)
    assert (mine.unseen, mine.differing, mine.unseen_where_differing) == (3 / 20, 6, 0.5)
    assert mine.pull == pytest.approx(0.02)


def test_a_verdict_is_true_where_it_calls_the_error_wrong_and_silence_is_none() -> None:
    says_right = ToldError(True, True, False, delivered=True, told=True, fixed=None)
    says_nothing = ToldError(True, True, None, delivered=True, told=True, fixed=None)
    [mine, _] = tally([probed("a", "---", told(), says_right, says_nothing), probed("b", "+")], rollouts=1)
    assert mine.true_verdict == 0.5


@pytest.mark.parametrize(
    ("changes", "peer", "found"),
    [
        ({}, 1.0, "teachable"),
        ({"plain": 0.8, "told": 0.0}, 0.0, "known"),
        ({"errors": 3, "told": 0.0}, 0.0, "too_few"),
        ({"told": 0.4}, 0.4, "nobody_knows"),
        ({"told": 0.4}, 0.9, "tutor_silent"),
        # Who cannot calculate may still know the formula, and say it.
        ({"told": 0.9}, 0.0, "teachable"),
        ({"told": 0.4, "hinted": 0.1}, 0.9, "tutor_silent"),
        ({"hinted": 0.4}, 1.0, "tutee_deaf"),
        ({"fixed": 0.4}, 1.0, "teachable"),
        ({"hinted": None, "fixed": 0.4}, 1.0, "tutee_deaf"),
        ({"unseen_where_differing": 0.6}, 1.0, "loss_blind"),
        ({"unseen_where_differing": 0.6, "differing": 9}, 1.0, "teachable"),
        # Forward KL pulls at tokens that the student never writes.
        ({"unseen_where_differing": 0.6, "pull": 0.9}, 1.0, "teachable"),
        ({"unseen_where_differing": None, "differing": 0, "pull": None}, 1.0, "teachable"),
    ],
)
def test_the_first_link_that_does_not_hold_is_named(changes: dict[str, object], peer: float, found: Finding) -> None:
    assert finding(row(**changes), peer) == found


def test_the_peers_own_answers_decide_whether_anybody_knows() -> None:
    deaf = [told(formula=False) for _ in range(4)]
    for plain, found in (("----", "nobody_knows"), ("++++", "tutor_silent")):
        mine, _ = tally([probed("a", "----", *deaf), probed("b", plain)], rollouts=1)
        assert mine.finding == found
