"""Acting on a run, end to end: inspector and broker over HTTP with keys, a scripted run on a real Redis."""

import pytest

from services.broker.exchange.batches import adopt
from shared.contracts.batches import BatchSample
from shared.contracts.events import Acted, TutorSilenced
from shared.files.batches import read_group
from shared.files.store import LocalStore
from tests.fakes.broker import RUN
from tests.fakes.inspected import Stand


def sealed_samples(stand: Stand, step: int = 1) -> dict[str, tuple[BatchSample, ...]]:
    store = LocalStore(stand.bench.run_dir)
    sealed = adopt(store, "a", step, RUN)
    assert sealed is not None
    problems = [problem.id for problem in stand.bench.plan.step_problems("a", step)]
    return {problem: read_group(store, sealed.manifest, problem).samples for problem in problems}


def test_excluded_feedback_is_not_trained_on_and_the_history_says_who_when_and_why(stand: Stand) -> None:
    items = stand.exchanges()
    assert len(items) == 3, "one group of three rollouts has feedback"
    chosen = items[1]
    refused = stand.post(f"/v1/feedback/{chosen['id']}/exclude", key="ask-key", reason="wrong formula")
    assert refused.status_code == 403
    done = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="wrong formula")
    assert done.status_code == 202, done.text
    stand.bench.turn()
    stand.bench.start()  # another broker takes the run up from Redis
    again = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="once more")
    assert again.status_code == 409
    assert "excluded already" in again.json()["error"]["message"]

    stand.let_the_other_group_through()
    stand.bench.finish()
    samples = sealed_samples(stand)
    mine = samples[str(chosen["problem_id"])]
    withheld = mine[int(str(chosen["sample"]))]
    assert withheld.feedback is None
    assert (withheld.withheld, withheld.verdict) == (chosen["delivered"], f"match:{chosen['word']}")
    shown = "".join(message.content for message in withheld.teacher_messages)
    assert str(chosen["delivered"]) not in shown
    assert withheld.mask == int(withheld.demonstration is not None), "as a rollout without feedback"
    others = [sample for group in samples.values() for sample in group if sample is not withheld]
    assert len(others) == 5 and all(sample.feedback and sample.withheld is None for sample in others)

    after = {item["id"]: item for item in stand.exchanges()}[chosen["id"]]
    assert (after["delivered"], after["withheld"]) == (None, chosen["delivered"])
    [act] = after["history"]  # type: ignore[misc]
    assert (act["act"], act["reason"], act["refused"], act["id"]) == (
        "exclude",
        "wrong formula",
        None,
        done.json()["accepted"],
    )
    assert act["by"].startswith("admin key ") and "admin-key" not in str(act)
    assert [item["id"] for item in stand.exchanges("acted=exclude")] == [chosen["id"]]
    kept = stand.bench.run_dir / "acts" / f"{act['id']}.json"
    assert Acted.model_validate_json(kept.read_bytes()).at == act["at"]


@pytest.mark.parametrize("order", [("flag", "exclude"), ("exclude", "flag")])
def test_an_exchange_that_is_flagged_and_excluded_is_both_in_either_order(stand: Stand, order: tuple[str, ...]) -> None:
    [chosen, *_] = stand.exchanges()
    for act in order:
        assert stand.post(f"/v1/feedback/{chosen['id']}/{act}", reason=f"to {act}").status_code == 202
        stand.bench.turn()
    stand.let_the_other_group_through()
    stand.bench.finish()
    [after] = [item for item in stand.exchanges() if item["id"] == chosen["id"]]
    assert (after["delivered"], after["withheld"]) == (None, chosen["delivered"])
    history: list[dict[str, str | None]] = after["history"]  # type: ignore[assignment]
    assert sorted((act["act"], act["refused"]) for act in history) == [("exclude", None), ("flag", None)]
    for act in order:
        assert [item["id"] for item in stand.exchanges(f"acted={act}")] == [chosen["id"]]
    sample = sealed_samples(stand)[str(chosen["problem_id"])][int(str(chosen["sample"]))]
    assert (sample.feedback, sample.withheld) == (None, chosen["delivered"])


def test_once_the_batch_is_sealed_exclusion_is_refused_and_a_flag_is_taken(stand: Stand) -> None:
    [chosen, *_] = stand.exchanges()
    stand.let_the_other_group_through()
    stand.bench.finish()
    late = stand.post(f"/v1/feedback/{chosen['id']}/exclude", reason="too late")
    assert late.status_code == 409
    assert "flag it, or silence the tutor" in late.json()["error"]["message"]
    assert late.json()["error"]["type"] == "conflict_error"
    assert stand.post(f"/v1/feedback/{chosen['id']}/flag", reason="reads like a <b>paraphrase</b>").status_code == 202
    stand.bench.turn()
    [flagged] = stand.exchanges("acted=flag")
    assert [act["reason"] for act in flagged["history"]] == ["reads like a <b>paraphrase</b>"]  # type: ignore[attr-defined]
    assert [item["act"]["act"] for item in stand.get("/v1/acts").json()["items"]] == ["flag"]
    assert stand.post("/v1/feedback/999/flag", reason="x").status_code == 404
    assert stand.post(f"/v1/feedback/{chosen['id']}/flag", reason="").status_code == 422


def test_a_silenced_tutor_is_not_asked_again_in_this_round(stand: Stand) -> None:
    done = stand.post("/v1/silence", tutor="b", reason="talks nonsense")
    assert done.status_code == 202, done.text
    stand.bench.turn()
    stand.bench.start()
    stand.bench.students["b"].held.clear()
    state = stand.bench.finish()
    [silenced] = state.silenced
    assert (silenced.tutor, silenced.student, silenced.reason) == ("b", "a", "talks nonsense")
    told = {problem: [sample.verdict for sample in group] for problem, group in sealed_samples(stand).items()}
    assert sorted(map(str, told.values())) == sorted(map(str, [[told_word(told)] * 3, ["fb_none"] * 3]))
    assert all(sample.verdict is None for group in sealed_samples(stand, 2).values() for sample in group)
    again = stand.post("/v1/silence", tutor="b", reason="again")
    assert again.status_code == 409
    events = [event for event in stand.bench.events("silenced") if isinstance(event, TutorSilenced)]
    assert [(event.by or "")[:9] for event in events] == ["admin key"]
    assert stand.post("/v1/silence", tutor="c", reason="who?").status_code in (404, 409)


def told_word(told: dict[str, list[str | None]]) -> str | None:
    return next(words[0] for words in told.values() if words[0] != "fb_none")
