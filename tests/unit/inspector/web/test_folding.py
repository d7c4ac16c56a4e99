"""Rows of the feed and the answers of a group: equal texts are one with their count, and nothing is lost."""

from pathlib import Path

from services.inspector.http.views import ExchangeView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.web.folding import FeedRow, answers_of, feed_rows, rollouts_of
from services.inspector.web.live import newest_place, news
from services.inspector.web.reading import FeedQuery, read_feed, read_group
from tests.unit.inspector.test_web import tell
from tests.unit.inspector.told import RUN, feedback, ready, revised, seal


def newest(store: Store) -> list[ExchangeView]:
    return store.newest_exchanges(ExchangeFilter(), before=None, limit=100)


def test_neighbours_of_one_group_are_one_row(store: Store) -> None:
    tell(
        store,
        feedback("p1", 0),
        feedback("p1", 1, delivered="Check the units."),
        feedback("p1", 2),
        feedback("p1", 0, step=2),
        feedback("p2", 0, step=2),
    )
    rows = list(feed_rows(newest(store)))
    assert [(row.first.problem_id, row.first.step, len(row.exchanges)) for row in rows] == [
        ("p2", 2, 1),
        ("p1", 2, 1),
        ("p1", 1, 3),
    ]
    assert [(found.said, found.count) for found in rows[-1].feedbacks] == [
        ("Multiply, do not add.", 2),
        ("Check the units.", 1),
    ]
    assert rows[-1].lowest == 1


def test_a_row_shows_two_feedbacks_and_counts_the_others(store: Store) -> None:
    tell(store, *(feedback("p1", sample, delivered=f"Hint {min(sample, 3)}") for sample in range(6)))
    [row] = feed_rows(newest(store))
    assert [found.said for found in row.shown] == ["Hint 3", "Hint 2"]
    assert row.others == 2


def test_the_same_words_with_another_verdict_are_another_fold(store: Store) -> None:
    raw = "<concept>mass</concept> Look."
    tell(store, feedback(raw=raw, delivered="Look."), feedback(sample=1, raw=raw, verdict="no_match", delivered=None))
    [row] = feed_rows(newest(store))
    assert [(found.first.verdict, found.count) for found in row.feedbacks] == [("no_match", 1), ("match", 1)]


def test_what_is_shown_alike_is_one_though_more_was_taken_out_of_one(store: Store) -> None:
    raw = "<concept>mass</concept> Look."
    more = feedback(raw=f"{raw} The answer is 5.", removed=("The answer is 5.",), delivered="Look.")
    tell(store, more, feedback(sample=1, raw=raw, correct=True, delivered="Look."))
    [row] = feed_rows(newest(store))
    [both] = row.feedbacks
    assert (both.said, both.count) == ("Look.", 2)
    assert [fold.first.correct for fold in both.outcomes] == [True, False]


def test_a_page_has_whole_groups_and_the_next_begins_behind_them(store: Store) -> None:
    tell(store, *(feedback(f"p{number:02}", sample) for number in range(60) for sample in range(3)))
    first = read_feed(store, FeedQuery())
    assert (len(first.rows), {len(row.exchanges) for row in first.rows}) == (50, {3})
    second = read_feed(store, FeedQuery(before=first.older))
    assert [row.first.problem_id for row in second.rows] == [f"p{number:02}" for number in range(9, -1, -1)]
    assert second.older is None


def test_a_row_that_grows_is_told_whole_and_under_its_name(store: Store) -> None:
    place = newest_place(store)
    seen: list[FeedRow] = []

    def render(row: FeedRow) -> str:
        seen.append(row)
        return row.name

    tell(store, feedback("p1", 0))
    _, place = news(store, ExchangeFilter(), place, render)
    tell(store, feedback("p1", 1), start=2)
    _, place = news(store, ExchangeFilter(), place, render)
    tell(store, revised("p1", 0), start=3)
    news(store, ExchangeFilter(), place, render)
    assert [len(row.exchanges) for row in seen] == [1, 2, 2]
    assert len({row.name for row in seen}) == 1


def test_a_group_before_its_batch_is_sealed_has_what_was_told(store: Store, tmp_path: Path) -> None:
    tell(store, feedback("p1", 1), feedback("p1", 0), feedback("p2"))
    group = read_group(store, SealedBatches(tmp_path, RUN), newest(store)[1], FeedQuery())
    [answer] = group.answers
    assert [rollout.sample for rollout in answer.items] == [0, 1]
    assert (group.rewards, group.trained, group.newer, group.older) == ((0.0, 0.0), None, 3, None)
    assert "sealed" in group.no_sealed


def test_a_sealed_group_has_also_whom_no_tutor_was_asked_about(store: Store, tmp_path: Path) -> None:
    seal(tmp_path, wrong=("5 N", "5 N"))
    batches = SealedBatches(tmp_path, RUN)
    tell(store, feedback("p1", 0))
    tell(store, revised("p1", 0), start=2)
    [told] = batches.exchanges(ready())
    group = batches.group("a", 1, "p1")
    answers = answers_of(rollouts_of([newest(store)[0]], group))
    assert [(answer.first.text, answer.count, answer.first.correct) for answer in answers] == [
        ("5 N", 2, False),
        (told.response, 1, True),
        ("alone", 1, True),
    ]
    assert [answer.untold for answer in answers] == [[2, 3], [], [1]]
    assert [fold.first.sample for fold in answers[1].revisions] == [0]
