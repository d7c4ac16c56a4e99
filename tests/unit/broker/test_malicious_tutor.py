"""End to end, on the scripted engine: a student that says well-anchored nonsense is silenced, an honest one is not.

The broker, its prompts, verdicts, grading and batches are the real ones; only the models are scripts.
"""

from pathlib import Path

import pytest

from services.broker.exchange.batches import adopt
from shared.contracts.events import Event, FeedbackGiven, TutorSilenced
from shared.contracts.run import Status
from shared.contracts.weights import StepRecord, step_record
from shared.files.batches import read_group
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.scripted_run import scripted_run

SAMPLES = 6
STEPS = 4
STATED_GROUPS = 8
"""docs/diagnostics.md: a tutor whose feedback is followed and always wrong has so many groups before it is silent."""

RUN_OF_TWO_ROUNDS = (
    "run.rounds=2",
    f"run.steps_per_round={STEPS}",
    "problems.per_step=4",
    f"rollout.samples={SAMPLES}",
    "feedback.share_identical=false",
)
HONEST = {"a": {"obedience": 1.0}, "b": {"obedience": 1.0}}
MALICIOUS = {"a": {"obedience": 1.0}, "b": {"obedience": 1.0, "nonsense_share": 1.0}}


def events(bench: BrokerBench, *kinds: str) -> list[Event]:
    return [event for _, event in bench.workers.read_events("0", count=10_000, block_s=0) if event.kind in kinds]


def said_by(tutor: str, bench: BrokerBench) -> list[FeedbackGiven]:
    return [e for e in events(bench, "feedback") if isinstance(e, FeedbackGiven) and e.tutor == tutor]


def test_a_malicious_tutor_is_silenced_within_the_stated_number_of_feedbacks(run_dir: Path) -> None:
    bench = scripted_run(run_dir, MALICIOUS, *RUN_OF_TWO_ROUNDS)
    bench.finish()
    given: dict[int, int] = {1: 0, 2: 0}
    silent: dict[int, TutorSilenced] = {}
    for event in events(bench, "feedback", "silenced"):
        if isinstance(event, TutorSilenced):
            assert (event.tutor, event.student) == ("b", "a")
            silent[event.round] = event
        elif isinstance(event, FeedbackGiven) and event.tutor == "b":
            assert event.round not in silent, "nothing is said by a silent tutor"
            assert event.verdict.startswith("match:"), "the anchor does not stop nonsense"
            given[event.round] += 1
    assert set(silent) == {1, 2}, "silenced, back in the next round, silenced again"
    assert all(0 < count <= STATED_GROUPS * SAMPLES for count in given.values())
    assert all(event.broke == event.right and event.low > event.bound for event in silent.values())
    assert len(said_by("a", bench)) == 2 * STEPS * 4 * SAMPLES, "the honest one is always asked"
    assert [(each.round, each.tutor) for each in bench.state.silenced] == [(1, "b"), (2, "b")]


def test_batches_after_the_silence_hold_no_feedback(run_dir: Path) -> None:
    bench = scripted_run(run_dir, MALICIOUS, *RUN_OF_TWO_ROUNDS)
    bench.finish()
    silenced = bench.state.silenced[0]
    assert silenced.step < STEPS, "there is a step after it in this round"
    store = LocalStore(run_dir)
    for step in range(silenced.step + 1, STEPS + 1):
        sealed = adopt(store, "a", step, RUN)
        assert sealed is not None
        assert (sealed.manifest.kept_feedback, sealed.manifest.tutor_version) == (0, None)
        record = StepRecord.model_validate_json((run_dir / step_record("a", step)).read_text())
        assert not record.tutored
        assert record.mean_reward == sealed.manifest.mean_reward
    first = adopt(store, "a", 1, RUN)
    assert first is not None and first.manifest.kept_feedback > 0
    group = read_group(store, first.manifest, next(iter(bench.plan.step_problems("a", 1))).id)
    assert len(group.samples) == SAMPLES
    times = bench.state.tallies["a"].step_times
    assert sum(time.steps for time in times.values()) == 2 * STEPS and len(times) == 2


def test_honest_tutors_are_never_silenced(run_dir: Path) -> None:
    bench = scripted_run(run_dir, HONEST, *RUN_OF_TWO_ROUNDS)
    bench.finish()
    assert bench.state.silenced == []
    told = [row for tally in bench.state.tallies.values() for row in tally.revisions if row.told]
    assert sum(row.right for row in told) > 100, "there was enough to judge by"


def test_nonsense_that_nobody_follows_harms_nobody(run_dir: Path) -> None:
    scripts = {"a": {"obedience": 0.0}, "b": {"nonsense_share": 1.0}}
    bench = scripted_run(run_dir, scripts, *RUN_OF_TWO_ROUNDS)
    bench.finish()
    assert bench.state.silenced == []


@pytest.mark.parametrize("redis_lost", [False, True])
def test_a_broker_that_is_started_again_keeps_the_silence(run_dir: Path, redis_lost: bool) -> None:
    bench = scripted_run(run_dir, MALICIOUS, *RUN_OF_TWO_ROUNDS)
    bench.run(lambda state: bool(state.silenced))
    told = len(said_by("b", bench))
    if redis_lost:
        bench.server.flush()
        told = 0
    bench.start()
    bench.run(lambda state: state.round == 2 or state.status is Status.DONE)
    assert len(said_by("b", bench)) == told, "the events go with Redis, if it is lost"
    assert [(each.round, each.tutor) for each in bench.state.silenced] == [(1, "b")]
