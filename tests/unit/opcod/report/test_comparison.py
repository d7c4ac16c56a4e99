"""A comparison's numbers, and what may be said of them."""

from collections.abc import Sequence

import pytest

from shared.results.comparison import Cell, Comparison, RunFigures, compare_methods, estimate
from shared.results.comparison_text import grids, place, to_markdown, verdict_lines

BEFORE = 0.25


def figures(method: str, seed: int, *after: float, mutual: bool = True) -> RunFigures:
    """after: a physics and b physics; training takes 60 of 100 seconds."""
    return RunFigures.model_validate(
        {
            "run": f"x-{method}-s{seed}",
            "finished": True,
            "seed": seed,
            "scores": [
                {"student": s, "domain": "physics", "strong": s == "a", "before": BEFORE, "after": score, "problems": 4}
                for s, score in zip("ab", after, strict=True)
            ],
            "mutual_improvement": mutual,
            "wall_s": 100.0,
            "stages": [{"name": "training rounds", "seconds": 60.0}, {"name": "loading models", "seconds": 9.0}],
            "a field of a later version": 1,
        }
    )


def compared(scores: dict[str, Sequence[tuple[float, float]]], seeds: int = 3) -> Comparison:
    """scores: by method, a's and b's final scores of seed 0, 1, …"""
    runs = {
        (method, seed): figures(method, seed, *row) for method, rows in scores.items() for seed, row in enumerate(rows)
    }
    return compare_methods("x", list(scores), range(seeds), runs)


def cell(comparison: Comparison, method: str, student: str) -> Cell:
    (found,) = [c for m in comparison.methods if m.method == method for c in m.cells if c.student == student]
    return found


@pytest.mark.parametrize(
    ("values", "half"),
    [([1.0, 2.0, 3.0], 4.302653 / 3**0.5), ([1.0, 3.0], 12.706205), ([2.0, 2.0, 2.0], 0.0)],
)
def test_the_interval_is_students_t(values: list[float], half: float) -> None:
    found = estimate(dict(enumerate(values)))
    assert found.mean == 2.0
    assert found.interval == pytest.approx((2.0 - half, 2.0 + half), abs=1e-5)


def test_a_single_seed_has_no_interval() -> None:
    assert estimate({0: 0.5}).interval is None


def test_cells_hold_scores_changes_and_paired_differences() -> None:
    comparison = compared({"opcod": [(0.5, 0.75), (0.75, 0.5)], "grpo": [(0.25, 0.75), (0.5, 0.75)]}, seeds=2)
    own = cell(comparison, "grpo", "a")
    assert (own.before.mean, own.after.mean, own.change.mean) == (BEFORE, 0.375, 0.125)
    assert own.difference is not None
    assert own.difference.values == {0: -0.25, 1: -0.25}
    assert cell(comparison, "grpo", "b").difference.values == {0: 0.0, 1: 0.25}  # type: ignore[union-attr]
    assert cell(comparison, "grpo", "mean").after.values == {0: 0.5, 1: 0.625}
    assert cell(comparison, "opcod", "a").difference is None
    opcod = comparison.methods[0]
    assert (opcod.training_s.mean, opcod.wall_s.mean, opcod.mutual_improvements) == (60.0, 100.0, 2)


def test_differences_are_over_the_seeds_that_both_have() -> None:
    comparison = compared({"opcod": [(0.5, 0.5)], "grpo": [(0.25, 0.5), (0.75, 0.5)]}, seeds=2)
    found = cell(comparison, "grpo", "a")
    assert found.difference is not None
    assert found.difference.values == {0: -0.25}
    assert (found.after.mean, found.verdict) == (0.5, "open")
    assert not comparison.finished
    assert "opcod 1, grpo 2" in verdict_lines(comparison)[0]


CLOSE = [(0.50, 0.5), (0.51, 0.5), (0.52, 0.5)]


@pytest.mark.parametrize(
    ("grpo", "verdict"),
    [
        ([(0.90, 0.5), (0.92, 0.5), (0.92, 0.5)], "higher"),
        ([(0.10, 0.5), (0.12, 0.5), (0.12, 0.5)], "lower"),
        ([(0.515, 0.5), (0.52, 0.5), (0.53, 0.5)], "higher"),
        ([(0.40, 0.5), (0.60, 0.5), (0.80, 0.5)], "open"),
        ([(0.625, 0.5), (0.635, 0.5), (0.645, 0.5)], "open"),
    ],
    ids=["far above", "far below", "always a little above, as the seeds differ more", "spread", "the same each time"],
)
def test_no_method_is_named_where_the_interval_of_the_difference_holds_0(
    grpo: list[tuple[float, float]], verdict: str
) -> None:
    comparison = compared({"opcod": CLOSE, "grpo": grpo})
    assert cell(comparison, "grpo", "a").verdict == verdict
    assert cell(comparison, "grpo", "b").verdict == "open"
    (line,) = verdict_lines(comparison)
    assert (f"{verdict} in a physics (own)" in line) == (verdict != "open")
    assert ("no difference is shown" in line) == (verdict == "open")
    assert ("higher" in line or "lower" in line) == (verdict != "open")


def test_a_difference_without_spread_is_told_and_not_taken_for_certain() -> None:
    (line,) = verdict_lines(compared({"opcod": [(0.5, 0.75), (0.25, 0.5)], "grpo": [(0.75, 0.75), (0.5, 0.25)]}, 2))
    assert line == (
        "grpo against opcod: no difference is shown; all seeds have the same in a physics (own), which tells how "
        "coarse the test is."
    )


def test_a_domain_may_be_called_all() -> None:
    """And its cells are its own, not the mean's."""
    rows = [figures("opcod", seed, 0.25, 0.75) for seed in range(2)]
    runs = {
        ("opcod", row.seed): row.model_copy(
            update={"scores": [each.model_copy(update={"domain": "all"}) for each in row.scores]}
        )
        for row in rows
    }
    (method,) = compare_methods("x", ["opcod"], range(2), runs).methods
    assert [(place(each), each.after.mean) for each in method.cells] == [
        ("a all (own)", 0.25),
        ("b all", 0.75),
        ("mean of all", 0.5),
    ]


def test_sdpo_and_never_are_shown_from_the_same_runs() -> None:
    runs = {("sdpo", 0): figures("sdpo", 0, 0.5, 0.5), ("never", 1): figures("never", 1, 0.5, 0.5)}
    runs |= {("opcod", seed): figures("opcod", seed, 0.75, 0.5) for seed in range(2)}
    comparison = compare_methods("x", ["opcod", "sdpo", "never"], range(2), runs)
    assert comparison.finished
    sdpo, never = comparison.methods[1:]
    assert (sdpo.same_as, never.same_as, never.runs) == (None, "sdpo", {0: "x-sdpo-s0", 1: "x-never-s1"})
    assert sdpo.cells == never.cells
    assert "never and sdpo are one computation: the same runs, shown twice." in verdict_lines(comparison)


def test_runs_that_measured_their_own_initial_scores_are_said_to() -> None:
    runs = {(method, seed): figures(method, seed, 0.5, 0.5) for method in ("opcod", "grpo") for seed in range(2)}
    assert compare_methods("x", ["opcod", "grpo"], range(2), runs).unlike_before == []
    other = [row.model_copy(update={"before": 0.3}) for row in runs["grpo", 1].scores]
    runs["grpo", 1] = runs["grpo", 1].model_copy(update={"scores": other})
    comparison = compare_methods("x", ["opcod", "grpo"], range(2), runs)
    assert comparison.unlike_before == [1]
    assert any(line.startswith("Of seed 1, the runs measured") for line in verdict_lines(comparison))


def test_a_method_that_computes_what_the_reference_does_is_not_compared_with_it() -> None:
    runs = {("sdpo", seed): figures("sdpo", seed, 0.5, 0.5) for seed in range(2)}
    comparison = compare_methods("x", ["sdpo", "never"], range(2), runs)
    assert [cell.difference for method in comparison.methods for cell in method.cells] == [None] * 6


def test_markdown_says_what_n_is() -> None:
    text = to_markdown(compared({"opcod": CLOSE, "grpo": [(0.9, 0.5)]}))
    assert "| opcod | 3 | 51.0 ± 2.5 | 50.0 ± 0.0 | 50.5 ± 1.2 |" in text
    assert "| grpo | 1 | 90.0 | 50.0 | 70.0 |" in text
    assert "A single seed has no interval" in text
    assert "| grpo | 1 of 1 | 60 | 100 | x-grpo-s0 |" in text
    assert "| 0 | grpo | 25.0 → 90.0 | 25.0 → 50.0 | 25.0 → 70.0 |" in text


def test_without_a_finished_run_there_are_no_tables() -> None:
    comparison = compare_methods("x", ["opcod", "grpo"], range(2), {})
    assert grids(comparison) == []
    assert "so far: none" in to_markdown(comparison)
    assert comparison.missing == ["opcod", "grpo"]
