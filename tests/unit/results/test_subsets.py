"""Test scores of some of the problems: without those whose stem is in the training problems, and of each kind."""

import pytest

from shared.contracts.run import Score, Split
from shared.problems.evaluation import per_domain
from shared.problems.loading import load_problem_set
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import Provenance
from shared.results.subsets import by_kind, without_shared_stems
from tests.fakes import final_state


def score(student: str, round_: int, physics: list[int], split: Split = Split.TEST) -> Score:
    """Two samples a problem."""
    made = final_state.score(student, round_, {"physics": physics, "chemistry": [0] * len(physics)}, split)
    return made.model_copy(update={"samples": 2})


def problems(*shared: int) -> ProblemSetManifest:
    """The generated set's manifest, as if these of the physics test problems had a stem in common with training."""
    written = manifest(load_problem_set("generated"))
    ids = written.partitions["test"].domains["physics"].ids
    stems = tuple(ids[at] for at in shared)
    return written.model_copy(update={"provenance": Provenance(source="x", files={}, shared_stems=stems)})


def test_means_leave_out_the_shared_ones() -> None:
    before, after = [2, 0, 1] + [0] * 157, [2, 2, 1] + [0] * 157
    scores = [score("a", 1, before), score("a", 1, before, Split.VALIDATION), score("a", 3, after)]
    (row,) = without_shared_stems(scores, problems(0, 2), None)
    assert (row.student, row.domain, row.problems, row.shared) == ("a", "physics", 158, 2)
    assert (row.before, row.after) == (0, pytest.approx(2 / (158 * 2)))


def test_a_limit_decides_which_problems_were_tested() -> None:
    scores = [score("a", 1, [2, 1, 0, 0]), score("a", 3, [2, 2, 0, 0])]
    set_ = load_problem_set("generated")
    tested = [each.id for each in per_domain(set_, set_.test, 4) if each.domain == "physics"]
    ids = manifest(set_).partitions["test"].domains["physics"].ids
    untested = next(at for at, name in enumerate(ids) if name not in tested)
    (row,) = without_shared_stems(scores, problems(ids.index(tested[0]), untested), 4)
    assert (row.problems, row.shared) == (3, 1)
    assert row.after == pytest.approx(2 / 6)


def test_nothing_to_say_without_such_problems_or_scores() -> None:
    scores = [score("a", 1, [0] * 160), score("a", 3, [0] * 160)]
    assert without_shared_stems(scores, problems(), None) == []
    assert without_shared_stems(scores, None, None) == []
    assert without_shared_stems(scores, manifest(load_problem_set("generated")), None) == []
    assert without_shared_stems(scores[:1], problems(0), None) == []


def test_each_kind_has_a_score_of_its_own() -> None:
    written = manifest(load_problem_set("generated"))
    kinds = written.partitions["test"].domains["physics"].kind_of_each
    known, lost = kinds[0], kinds[1]
    before = [2 if kind == lost else 0 for kind in kinds]
    after = [2 if kind == known else 0 for kind in kinds]
    rows = {
        row.kind: row
        for row in by_kind([score("a", 1, before), score("a", 3, after)], written, None)[: len(set(kinds))]
    }
    assert list(rows) == list(dict.fromkeys(kinds)), "as they come in the problems"
    assert sum(row.problems for row in rows.values()) == 160
    assert (rows[known].before, rows[known].after, rows[known].moved, rows[known].lost) == (0, 1, True, False)
    assert (rows[lost].before, rows[lost].after, rows[lost].moved, rows[lost].lost) == (1, 0, True, True)
    assert not any(row.moved for name, row in rows.items() if name not in (known, lost))


@pytest.mark.parametrize(
    ("before", "after", "lost"), [(16, 0, True), (12, 4, True), (11, 0, False), (16, 5, False), (4, 16, False)]
)
def test_lost_is_what_was_known_and_is_not(before: int, after: int, lost: bool) -> None:
    """Of 16 problems: seven tenths and three tenths are the bounds."""
    written = manifest(load_problem_set("generated"))
    kinds = written.partitions["test"].domains["physics"].kind_of_each
    of_kind = [at for at, kind in enumerate(kinds) if kind == kinds[0]]
    early, late = ([2 * (at in of_kind[:right]) for at in range(160)] for right in (before, after))
    (row,) = (row for row in by_kind([score("a", 1, early), score("a", 3, late)], written, None) if row.moved)
    assert (row.kind, row.lost) == (kinds[0], lost)


def test_a_kind_of_few_problems_or_without_a_name_has_no_score() -> None:
    """Of a single problem any change would be beyond its noise."""
    written = manifest(load_problem_set("generated"))
    test = written.partitions["test"]
    kinds = ("few",) * 4 + ("enough",) * 5 + ("",) * 151
    physics = test.domains["physics"].model_copy(update={"kind_of_each": kinds})
    partitions = {**written.partitions, "test": test.model_copy(update={"domains": {"physics": physics}})}
    scores = [score("a", 1, [2] * 160), score("a", 3, [0] * 160)]
    rows = by_kind(scores, written.model_copy(update={"partitions": partitions}), None)
    assert [(row.kind, row.problems, row.lost) for row in rows] == [("enough", 5, True)]


def test_kinds_are_of_the_problems_that_were_tested() -> None:
    """Of 160 that alternate over ten kinds, every second would be of five of them."""
    problems = load_problem_set("generated")
    tested = [each.kind for each in per_domain(problems, problems.test, 80) if each.domain == "physics"]
    after = [2 if kind == tested[1] else 0 for kind in tested]
    rows = by_kind([score("a", 1, [0] * 80), score("a", 3, after)], manifest(problems), 80)
    physics = [row for row in rows if row.domain == "physics"]
    assert len(physics) == 10 and {row.problems for row in physics} == {8}
    assert [(row.kind, row.after) for row in physics if row.moved] == [(tested[1], 1)]


def test_nothing_is_said_of_kinds_where_there_is_one_or_none_is_known() -> None:
    scores = [score("a", 1, [0] * 160), score("a", 3, [2] * 160)]
    written = manifest(load_problem_set("generated"))
    assert by_kind(scores, None, None) == [] and by_kind(scores[:1], written, None) == []
    test = written.partitions["test"]
    for told in ((), ("all",) * 160):
        domains = {name: part.model_copy(update={"kind_of_each": told}) for name, part in test.domains.items()}
        changed = {**written.partitions, "test": test.model_copy(update={"domains": domains})}
        assert by_kind(scores, written.model_copy(update={"partitions": changed}), None) == []


def test_of_a_manifest_that_does_not_name_kinds_every_nth_problem_was_tested() -> None:
    written = problems(0, 1)
    test = written.partitions["test"]
    domains = {name: part.model_copy(update={"kind_of_each": ()}) for name, part in test.domains.items()}
    partitions = {**written.partitions, "test": test.model_copy(update={"domains": domains})}
    scores = [score("a", 1, [2, 1, 0, 0]), score("a", 3, [2, 2, 0, 0])]
    (row,) = without_shared_stems(scores, written.model_copy(update={"partitions": partitions}), 4)
    assert (row.problems, row.shared, row.after) == (3, 1, pytest.approx(2 / 6)), "0, 40, 80 and 120 of 160"
