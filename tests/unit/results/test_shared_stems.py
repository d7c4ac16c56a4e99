"""Test scores without the problems whose stem is in the training problems, too."""

import pytest

from shared.contracts.run import Score, Split
from shared.problems.loading import load_problem_set
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import Provenance
from shared.results.diagnostics import without_shared_stems
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
    (row,) = without_shared_stems(scores, problems(0, 1), 4)
    assert (row.problems, row.shared) == (3, 1), "of 160 problems the limit takes 0, 40, 80 and 120"
    assert row.after == pytest.approx(2 / 6)


def test_nothing_to_say_without_such_problems_or_scores() -> None:
    scores = [score("a", 1, [0] * 160), score("a", 3, [0] * 160)]
    assert without_shared_stems(scores, problems(), None) == []
    assert without_shared_stems(scores, None, None) == []
    assert without_shared_stems(scores, manifest(load_problem_set("generated")), None) == []
    assert without_shared_stems(scores[:1], problems(0), None) == []
