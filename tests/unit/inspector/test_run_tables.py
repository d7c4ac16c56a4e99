"""What became of a student, in words; the gate, the teaching and the pictures of three of them."""

from pathlib import Path

import pytest

from services.inspector.run.view import RunData
from services.inspector.store.store import Store
from services.inspector.web.run_tables import directions, run_tables
from shared.results.grid import Named
from shared.results.progress import Improvement, ScorePoint
from tests.fakes.broker import RUN, THREE, BrokerBench


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"physics": 0.6, "chemistry": 0.3}, "better in physics and chemistry, worse in none"),
        ({"physics": 0.5, "chemistry": 0.3}, "better in chemistry, worse in none"),
        ({"physics": 0.4, "chemistry": 0.3}, "better in chemistry, worse in physics"),
        ({"physics": 0.5, "chemistry": 0.2}, "better in none, worse in none"),
    ],
)
def test_directions_name_the_domains(last: dict[str, float], said: str) -> None:
    found = Improvement(
        student="a", split="test", first={"physics": 0.5, "chemistry": 0.2}, last=last, pareto="none" in said
    )
    assert directions(found) == said


def test_the_gate_of_three_is_a_matrix_and_each_row_of_teaching_has_one_tutor(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path, THREE)
    bench.finish()
    store = Store(tmp_path / "log.sqlite3", RUN)
    view = RunData(RUN, tmp_path, bench.settings, store, bench.workers).view()
    # The inspector has read nothing yet: what the state knows is enough.
    tables = run_tables(view.model_copy(update={"gates": tuple(bench.state.gates)})).own
    assert [column.title for column in tables.gate.columns[:5]] == [
        "Round",
        "Tutor",
        "Gap to a",
        "Gap to b",
        "Gap to c",
    ]
    assert [[value is None for value in row[2:5]] for row in tables.gate.rows] == [
        [tutor == student for student in "abc"] for tutor in "abc"
    ]
    taught = bench.state.tallies
    assert sum(int(str(row[3])) for row in tables.taught.rows) == sum(tally.samples for tally in taught.values())
    store.close()


def test_the_scores_of_each_of_three_are_a_profile_over_all_domains(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path, THREE)
    store = Store(tmp_path / "log.sqlite3", RUN)
    view = RunData(RUN, tmp_path, bench.settings, store, bench.workers).view()
    store.close()
    assert run_tables(view).profiles == [], "nothing is scored yet"
    domains = ("physics", "chemistry", "biology")
    told = {"b@v0": (0.2, 0.6, 0.2), "b@v1": (0.3, 0.6, 0.2), "b@v2": (0.9,)}
    scores = [
        ScorePoint(student="b", domain=domain, split="validation", version=version, round=1, score=score, interval=None)
        for version, shares in told.items()
        for domain, score in zip(domains, shares, strict=False)
    ]
    early = scores[0].model_copy(update={"domain": "geology", "version": "b@v1"})
    tables = run_tables(view.model_copy(update={"scores": (*scores, early)}))
    # One that only the broker's state knows so far is the last.
    assert [row[1] for row in tables.scores.rows] == [
        Named("physics"),
        Named("chemistry", "own"),
        Named("biology"),
        Named("geology"),
    ]
    assert tables.planes == []
    [profile] = tables.profiles
    assert (profile.student, [domain for _, domain in profile.columns]) == ("b", list(domains))
    first, last = profile.ways
    assert (first.version, last.version) == ("b@v0", "b@v1"), "what is not scored to its end has no line"
    assert [one.y - other.y for one, other in zip(first.dots, last.dots, strict=True)] == pytest.approx([100 / 6, 0, 0])
    assert [(corner.x, corner.y) for corner in profile.above[1:-1]] == [(dot.x, dot.y) for dot in first.dots]
    assert {corner.y for corner in (profile.above[0], profile.above[-1])} == {0.0}


def test_each_of_two_runs_has_a_gate_of_its_own_students(tmp_path: Path) -> None:
    """And who taught whom is told of the one that has several tutors."""
    found = {}
    for name, overrides in (("two", ()), ("three", THREE)):
        (tmp_path / name).mkdir()
        bench = BrokerBench(tmp_path / name, overrides)
        bench.finish()
        store = Store(tmp_path / name / "log.sqlite3", RUN)
        view = RunData(RUN, tmp_path / name, bench.settings, store, bench.workers).view()
        found[name] = view.model_copy(update={"gates": tuple(bench.state.gates)})
        store.close()
    of_two, of_three = ["Round", "Gap of a", "Gap of b"], ["Round", "Tutor", "Gap to a", "Gap to b", "Gap to c"]
    for own, other, titles in (("two", "three", (of_two, of_three)), ("three", "two", (of_three, of_two))):
        tables = run_tables(found[own].model_copy(update={"beside": found[other]}))
        assert tables.other is not None
        for each, title in zip((tables.own, tables.other), titles, strict=True):
            assert [column.title for column in each.gate.columns[:-2]] == title
            assert bool(each.taught.rows) == (title == of_three)
