"""Counting what revisions did, and what a broker shows of it."""

from dataclasses import replace

from prometheus_client import REGISTRY

from services.broker import metrics
from services.broker.exchange import news
from services.broker.exchange.judging import JudgedRevision, count_group
from services.broker.machine.machine import new_run
from services.broker.machine.moves import IssueFeedback, IssueRevision
from shared.contracts.diagnostics import AlarmWatch, RevisionCount, Silenced
from shared.contracts.events import Revised
from shared.contracts.run import PhaseState, Tally
from tests.fakes.figures import revision_count
from tests.fakes.world import World, small_plan


def test_a_group_is_counted_with_and_without_feedback() -> None:
    revised = [
        JudgedRevision(before=True, after=False, told=True),
        JudgedRevision(before=True, after=True, told=True),
        JudgedRevision(before=False, after=True, told=True),
        JudgedRevision(before=True, after=True, told=False),
        JudgedRevision(before=False, after=False, told=False),
    ]
    shown, hidden = count_group(revised, round_=2, tutor="b")
    assert shown == RevisionCount(
        round=2, tutor="b", told=True, wrong_rollouts=2, groups=1, broke=1, kept_right=1, fixed=1,
        right_squares=4, wrong_squares=1,
    )  # fmt: skip
    assert (hidden.told, hidden.wrong_rollouts, hidden.kept_right, hidden.kept_wrong) == (False, 2, 1, 1)


def test_a_revision_that_was_not_answered_counts_for_nothing() -> None:
    revised = [
        JudgedRevision(before=True, after=False, told=True, answered=False),
        JudgedRevision(before=False, after=True, told=True),
    ]
    [shown] = count_group(revised, round_=1, tutor="b")
    assert (shown.broke, shown.fixed, shown.right_squares, shown.wrong_squares) == (0, 1, 0, 1)
    [event] = news.revised("a", 1, 1, "p1", revised, ["", "4"])
    assert isinstance(event, Revised) and (event.sample, event.text) == (1, "4")
    assert count_group([replace(each, answered=False) for each in revised], round_=1, tutor="b") == ()


def test_revisions_are_asked_for_the_planned_share() -> None:
    world = World(small_plan(revise_share=1.0))
    world.start()
    world.finish()
    assert len(world.of(IssueRevision)) == len(world.of(IssueFeedback)) > 0


def test_no_row_for_what_did_not_happen() -> None:
    [only] = count_group([JudgedRevision(before=False, after=False, told=False)], round_=1, tutor="b")
    assert not only.told


def test_only_groups_that_are_alike_are_added_up() -> None:
    count = revision_count(1, 2)
    assert not count.like(revision_count(1, 2, wrong=2)) and not count.like(revision_count(1, 2, told=False))
    other = revision_count(3, 1)
    assert count.like(other)
    count.include(other)
    assert (count.groups, count.broke, count.right, count.right_squares) == (2, 4, 7, 9 + 16)


def test_gauges_follow_the_state() -> None:
    state = new_run(small_plan(), incarnation=0, at=0.0)
    state.phases = [PhaseState(student="a", tutors={"b": "b@v0"}, first_step=1, steps=2)]
    state.tallies["a"] = Tally(revisions=[revision_count(2, 1), revision_count(5, 0, told=False)])
    state.watches["a"] = AlarmWatch(standing=["reward_collapse"])
    metrics.show(state, small_plan())
    pair = {"tutor": "b", "tutee": "a"}
    assert REGISTRY.get_sample_value("opcod_broker_feedback_breaks", {**pair, "outcome": "broke"}) == 2
    assert REGISTRY.get_sample_value("opcod_broker_feedback_breaks", {**pair, "outcome": "revised"}) == 3
    assert REGISTRY.get_sample_value("opcod_broker_alarm", {"student": "a", "alarm": "reward_collapse"}) == 1
    assert REGISTRY.get_sample_value("opcod_broker_alarm", {"student": "a", "alarm": "answer_collapse"}) == 0
    assert REGISTRY.get_sample_value("opcod_broker_tutor_silenced", pair) == 0
    state.silenced = [
        Silenced(
            round=1, step=1, tutor="b", student="a", broke=3, right=3, break_rate=1.0, low=0.6, chance=0.1, bound=0.5
        )
    ]
    metrics.show(state, small_plan())
    assert REGISTRY.get_sample_value("opcod_broker_tutor_silenced", pair) == 1
