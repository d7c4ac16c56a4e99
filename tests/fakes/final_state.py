"""A run that is done, by hand: two students before and after two rounds, with tallies that are easy to check."""

from itertools import permutations

from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.contracts.diagnostics import RevisionCount, StepTime
from shared.contracts.run import AnswerCounts, GateDecision, PairGate, RunState, Score, Split, Status, Tally

BEFORE = {"physics": [4, 4, 0, 0], "chemistry": [0, 0, 0, 4]}
AFTER = {"physics": [4, 4, 4, 0], "chemistry": [0, 0, 4, 4]}


def settings() -> RunSettings:
    return load_settings(preset="smoke", environ={})


def score(student: str, round_: int, correct: dict[str, list[int]], split: Split = Split.TEST) -> Score:
    return Score(
        student=student,
        version=f"{student}@v{round_}",
        split=split,
        round=round_,
        samples=4,
        correct=correct,
        answers={domain: AnswerCounts(lenient=12, format_ok=8, truncated=4) for domain in correct},
        majority={domain: 0.25 for domain in correct},
    )


def gate_of_three() -> GateDecision:
    """In which c alone is cognizant, of a, although over all domains its gap is the largest."""
    names = ("a", "b", "c")
    pairs = [
        PairGate(tutor=tutor, student=student, gap=gap, interval=(gap / 2, gap + 0.1), cognizant=gap <= 0.2)
        for (tutor, student), gap in zip(permutations(names, 2), (0.3, 0.4, 0.5, 0.6, 0.1, 0.7), strict=True)
    ]
    return GateDecision(
        round=1,
        scores={name: {"physics": 0.5, "chemistry": 0.25, "biology": 0.125} for name in names},
        gaps={"a": 0.8, "b": 0.85, "c": 0.9},
        gap_intervals=dict.fromkeys(names, (0.7, 1.0)),
        cognizant={"a": False, "b": False, "c": True},
        mode="cognizance",
        tau=0.2,
        pairs=pairs,
    )


def final_state(after: dict[str, list[int]] | None = None, **changes: object) -> RunState:
    """Student b ends as it began unless it is like a; a ends with `after`."""
    ended = after or AFTER
    gate = GateDecision(
        round=1,
        scores={"a": {"physics": 0.5, "chemistry": 0.25}, "b": {"physics": 0.25, "chemistry": 0.5}},
        gaps={"a": 0.25, "b": 0.125},
        gap_intervals={"a": (0.0, 0.5), "b": (0.1, 0.2)},
        cognizant={"a": False, "b": True},
        mode="cognizance",
        tau=0.2,
    )
    tally = Tally(
        verdicts={1: {"match": 2, "no_match": 2}, 2: {"match": 4}},
        lost_feedback={"tutor_timeout": 1},
        revisions=[
            RevisionCount(
                round=1,
                tutor="b",
                told=True,
                wrong_rollouts=1,
                groups=2,
                fixed=1,
                broke=1,
                kept_right=3,
                kept_wrong=1,
                right_squares=8,
                wrong_squares=2,
            ),
            RevisionCount(round=2, tutor="b", told=False, wrong_rollouts=3, groups=1, kept_wrong=2, wrong_squares=4),
        ],
        step_times={"with_feedback": StepTime(steps=2, seconds=5.0)},
        output_tokens={"rollout": 100, "eval": 50},
        engine_seconds={"rollout": 4.0, "eval": 0.0},
        stage_seconds={"rollout": 10.0, "train": 20.0},
        samples=10,
        active_samples=8,
    )
    fields: dict[str, object] = {
        "run": "by-hand",
        "incarnation": 1,
        "revision": 9,
        "status": Status.DONE,
        "round": 1,
        "version": {"a": "a@v2", "b": "b@v2"},
        "steps": {"a": 2, "b": 2},
        "served": {},
        "scores": [
            score("a", 1, BEFORE, Split.VALIDATION),
            score("a", 1, BEFORE),
            score("b", 1, BEFORE),
            score("a", 2, ended),
            score("b", 2, ended),
        ],
        "gates": [gate],
        "tallies": {"a": tally, "b": Tally()},
        "status_seconds": {"VALIDATING": 10.0, "TRAINING": 60.0, "GATED": 0.0, "FINAL_EVAL": 20.0},
        "status_since": 100.0,
        "at": 100.0,
    }
    return RunState.model_validate(fields | changes)
