"""Sealed batches: groups with demonstrations and masks, written once, adopted after a crash, refused when foreign."""

import dataclasses
import json
from pathlib import Path

import pytest

from services.broker.exchange.batches import StepHeader, adopt, build_group, write_batch
from services.broker.exchange.judging import JudgedFeedback
from shared.contracts.batches import BatchGroup
from shared.contracts.jobs import PromptOutput
from shared.errors import StorageError
from shared.files.batches import read_group
from shared.files.store import LocalStore
from shared.problems.integer import IntegerFormat
from shared.problems.problem import Problem
from tests.fakes.broker import sample_of

FORMAT = IntegerFormat()
RIGHT, WRONG = " u = 9 * 2 = 18", " u = 9 + 2 = 11"
TOLD = JudgedFeedback("match:voltage", "<concept>voltage</concept> Multiply.", "Multiply.")
DROPPED = JudgedFeedback("no_match", "<concept>entropy</concept> Multiply.", None)
HEADER = StepHeader("test", "a", 1, 3, False, "a@v2", "b", "b@v0", "0" * 64)


@pytest.fixture
def store(run_dir: Path) -> LocalStore:
    return LocalStore(run_dir)


def problem(name: str = "p1") -> Problem:
    return Problem(name, "physics", "voltage", "What voltage drives 9 A through 2 ohm?", "18")


def group(
    *texts: str, told: list[JudgedFeedback] | None = None, exclude_self: bool = True, name: str = "p1"
) -> BatchGroup:
    rollouts = PromptOutput(prompt_token_ids=(1, 2), samples=tuple(sample_of(text) for text in texts))
    return build_group(problem(name), rollouts, told, FORMAT, exclude_self=exclude_self)


@pytest.mark.parametrize(
    ("texts", "exclude_self", "demonstrations", "masks"),
    [
        ((WRONG, RIGHT, RIGHT), True, [1, 2, 1], [1, 1, 1]),
        ((WRONG, RIGHT, RIGHT), False, [1, 1, 1], [1, 1, 1]),
        ((WRONG, RIGHT, WRONG), True, [1, None, 1], [1, 0, 1]),
        ((WRONG, RIGHT, WRONG), False, [1, 1, 1], [1, 1, 1]),
        ((WRONG, WRONG), True, [None, None], [0, 0]),
    ],
)
def test_demonstrations_and_masks_without_feedback(
    texts: tuple[str, ...], exclude_self: bool, demonstrations: list[int | None], masks: list[int]
) -> None:
    samples = group(*texts, exclude_self=exclude_self).samples
    assert [sample.demonstration for sample in samples] == demonstrations
    assert [sample.mask for sample in samples] == masks
    assert [sample.reward for sample in samples] == [float(text == RIGHT) for text in texts]
    assert {sample.verdict for sample in samples} == {None}


def test_an_answer_of_nothing_but_thinking_demonstrates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IntegerFormat, "grade", lambda _self, _text, _answer: 1.0)
    samples = group("<think>never closed: 18", f"<think>9 * 2</think>{RIGHT}", exclude_self=False).samples
    assert [sample.demonstration for sample in samples] == [1, 1]
    assert samples[0].teacher_messages[-1].content == f"{problem().question}\nSolved: u = 9 * 2 = 18"


def test_feedback_gives_a_loss_where_there_is_no_demonstration() -> None:
    samples = group(WRONG, WRONG, told=[TOLD, DROPPED]).samples
    assert [(s.mask, s.feedback, s.verdict) for s in samples] == [
        (1, "Multiply.", "match:voltage"),
        (0, None, "no_match"),
    ]
    assert samples[1].feedback_raw == DROPPED.raw, "what was dropped can still be read"


def test_the_teacher_sees_demonstration_and_feedback() -> None:
    made = group(WRONG, RIGHT, told=[TOLD, TOLD])
    assert made.samples[0].teacher_messages[-1].content == (
        f"{problem().question}\nSolved: u = 9 * 2 = 18\nFeedback: Multiply."
    )
    assert made.messages[-1].content == problem().question
    alone = group(WRONG).samples[0]
    assert alone.teacher_messages == made.messages, "with nothing to show the teacher sees what the student saw"


def test_a_manifest_counts_what_its_batch_holds(store: LocalStore) -> None:
    groups = [group(WRONG, RIGHT, told=[TOLD, DROPPED]), group(WRONG, WRONG, told=[DROPPED, DROPPED], name="p0")]
    manifest = write_batch(store, HEADER, groups).manifest
    assert (manifest.groups, manifest.samples, manifest.active_samples, manifest.kept_feedback) == (2, 4, 1, 1)
    assert manifest.verdicts == {"match": 1, "no_match": 3}
    assert manifest.mean_reward == 0.25
    assert manifest.reward_variance == pytest.approx((0.25**2 + 0.25**2) / 2), "over the groups' means, 0.5 and 0"
    assert manifest.unique_share == 0.75, "the two of p0 are the same"
    answers = [len(sample.token_ids) for each in groups for sample in each.samples]
    assert manifest.mean_tokens == sum(answers) / len(answers)


def test_a_manifest_leaves_groups_that_are_all_right_out_of_the_unique_share(store: LocalStore) -> None:
    manifest = write_batch(store, HEADER, [group(RIGHT, RIGHT)]).manifest
    assert (manifest.unique_share, manifest.reward_variance) == (None, 0.25)


def test_groups_lie_in_the_order_of_their_problems(store: LocalStore) -> None:
    first, second = group(WRONG, name="p1"), group(RIGHT, name="p0")
    write_batch(store, HEADER, [first, second])
    lines = (store.root / "batches/a/s00003/groups.jsonl").read_text().splitlines()
    assert [json.loads(line)["problem_id"] for line in lines] == ["p0", "p1"]


def test_a_batch_does_not_depend_on_the_order_of_arrival(store: LocalStore, tmp_path: Path) -> None:
    groups = [group(WRONG, name=f"p{n}") for n in range(3)]
    one = write_batch(store, HEADER, groups)
    other = write_batch(LocalStore(tmp_path), HEADER, groups[::-1])
    assert one == other


def test_a_batch_from_before_the_crash_is_adopted(store: LocalStore) -> None:
    assert adopt(store, "a", 3, "test") is None
    written = write_batch(store, HEADER, [group(RIGHT)])
    assert adopt(store, "a", 3, "test") == written
    assert written.message.uri == "batches/a/s00003"
    assert written.message.base_version == "a@v2"
    assert read_group(store, written.manifest, "p1") == group(RIGHT)


def test_a_sealed_batch_is_never_written_again(store: LocalStore) -> None:
    write_batch(store, HEADER, [group(RIGHT)])
    with pytest.raises(StorageError, match="never written again"):
        write_batch(store, HEADER, [group(WRONG)])


def test_a_batch_of_another_run_is_refused(store: LocalStore) -> None:
    write_batch(store, dataclasses.replace(HEADER, run="other"), [group(RIGHT)])
    with pytest.raises(StorageError, match="belongs to 'other/a' step 3"):
        adopt(store, "a", 3, "test")


def test_an_altered_batch_is_refused(store: LocalStore) -> None:
    write_batch(store, HEADER, [group(RIGHT)])
    path = store.root / "batches/a/s00003/groups.jsonl"
    path.write_text(path.read_text().replace('"reward":1.0', '"reward":0.0'))
    with pytest.raises(StorageError, match="expected sha256"):
        adopt(store, "a", 3, "test")


def test_a_problem_that_a_batch_does_not_hold_is_named(store: LocalStore) -> None:
    written = write_batch(store, HEADER, [group(RIGHT)])
    with pytest.raises(StorageError, match="no group of problem p9"):
        read_group(store, written.manifest, "p9")


def test_with_several_tutors_a_batch_says_who_spoke_and_with_one_it_is_as_it_was(store: LocalStore) -> None:
    told = [TOLD, DROPPED]
    groups = [
        group(RIGHT, WRONG, told=told, name=name).model_copy(update={"tutor": tutor})
        for name, tutor in (("p1", "b"), ("p2", "c"), ("p3", None))
    ]
    several = dataclasses.replace(HEADER, tutor=None, tutor_version=None, tutors={"b": "b@v0", "c": "c@v2"})
    manifest = write_batch(store, several, groups).manifest
    assert [manifest.tutor_of(each) for each in groups] == [("b", "b@v0"), ("c", "c@v2"), None]
    assert [(row.tutor, row.domain, row.feedbacks, row.kept) for row in manifest.taught] == [
        ("b", "physics", 2, 1),
        ("c", "physics", 2, 1),
    ]
    alone = write_batch(store, dataclasses.replace(HEADER, step=4), [group(RIGHT, told=[TOLD])])
    assert alone.manifest.tutor_of(groups[2]) == ("b", "b@v0")
    files = [path.read_text() for path in (store.root / "batches/a/s00004").iterdir()]
    assert all(word not in text for text in files for word in ('"tutors"', '"taught"', '"tutor":null'))
