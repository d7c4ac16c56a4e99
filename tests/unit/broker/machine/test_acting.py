"""What people do about exchanges and tutors: the state machine, in any order, twice, and over restarts."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.broker.machine.moves import (
    Asked,
    Command,
    IssueFeedback,
    JobReported,
    KeepAct,
    SealBatch,
    TakenUp,
)
from shared.contracts.acting import Act, ExchangeAct, ExchangeRef, SilenceAct
from shared.contracts.events import Acted, StatusChanged, TutorSilenced
from shared.contracts.run import GroupState, JobStatus, RunState, Status
from tests.fakes.examples import whole_runs
from tests.fakes.world import World, small_plan


def act_id(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def exclude(exchange: ExchangeRef, number: int = 1) -> ExchangeAct:
    return ExchangeAct(id=act_id(number), act="exclude", exchange=exchange, by="admin key 0123abcd", reason="wrong")


def silence(tutor: str = "b", number: int = 2) -> SilenceAct:
    return SilenceAct(id=act_id(number), tutor=tutor, by="admin key 0123abcd", reason="nonsense")


def world(seed: int = 0, **plan: object) -> World:
    made = World(small_plan(**({"gate_mode": "always"} | plan)), seed=seed)
    made.start()
    return made


def ask(made: World, act: Act, *, sealed: bool = False) -> list[Command]:
    return made.send(Asked(made.at, act, sealed))


def kept(commands: list[Command]) -> list[Acted]:
    return [command.acted for command in commands if isinstance(command, KeepAct)]


def told_group(made: World, student: str = "a") -> tuple[ExchangeRef, GroupState]:
    """Let things happen until a group of the open step has its feedback, and the batch is still open."""
    while True:
        for phase in made.state.phases:
            step = phase.step
            if phase.student != student or step is None or step.sealed:
                continue
            for group in step.groups:
                if group.feedback.status is JobStatus.DONE:
                    exchange = ExchangeRef(student=student, step=step.step, problem_id=group.problem_id, sample=1)
                    return exchange, group
        assert made.step(), "no group with feedback in an open step"


def test_an_exclusion_is_in_the_state_before_the_batch_is_sealed() -> None:
    made = world()
    exchange, _ = told_group(made)
    [done] = kept(ask(made, exclude(exchange)))
    assert (done.refused, done.round, done.act.reason) == (None, 1, "wrong")
    _, group = told_group(made)
    assert group.excluded == [1]
    assert not made.of(SealBatch)
    assert made.finish().status is Status.DONE


@pytest.mark.parametrize("order", [("flag", "exclude"), ("exclude", "flag"), ("flag", "flag", "exclude")])
def test_a_flag_neither_hinders_an_exclusion_nor_ends_it(order: tuple[str, ...]) -> None:
    made = world()
    exchange, _ = told_group(made)
    acts = [exclude(exchange, number).model_copy(update={"act": act}) for number, act in enumerate(order)]
    assert [done.refused for act in acts for done in kept(ask(made, act))] == [None] * len(order)
    assert open_group(made, exchange).excluded == [exchange.sample]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_comes_twice_is_done_once(restarted: bool) -> None:
    made = world()
    exchange, _ = told_group(made)
    assert len(kept(ask(made, exclude(exchange)))) == 1
    if restarted:
        made.state = RunState.model_validate_json(made.state.model_dump_json())
        made.send(TakenUp(made.at, False))
    assert kept(ask(made, exclude(exchange))) == []
    _, group = told_group(made)
    assert group.excluded == [1]
    [again] = kept(ask(made, exclude(exchange, number=7)))
    assert "excluded already" in str(again.refused)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_an_exclusion_survives_an_emptied_redis_if_its_text_does(same: bool, times: int) -> None:
    """The open step is made again with the same seeds, which a real engine need not answer with the same words."""
    made = world()
    exchange, _ = told_group(made)
    ask(made, exclude(exchange))
    made.pending = [event for event in made.pending if not isinstance(event, JobReported)]
    for _ in range(times):
        made.send(TakenUp(made.at, True, sealed=dict.fromkeys("ab", 0)))
    while not (group := open_group(made, exchange)).ready:
        output = "0" * 64 if same else "1" * 64
        made.pending = [replace(e, output=output) if isinstance(e, JobReported) else e for e in made.pending]
        assert made.step()
    reasons = [event.reason for event in made.told(StatusChanged) if event.reason]
    if same:
        assert (group.excluded, reasons) == ([1], [])
    else:
        reason = f"no longer excluded, since it was made again and is another text: {exchange.key}"
        assert (group.excluded, reasons) == ([], [reason])
    assert group.excluded_from is None
    assert made.finish().status is Status.DONE


def open_group(made: World, exchange: ExchangeRef) -> GroupState:
    steps = [phase.step for phase in made.state.phases if phase.student == exchange.student and phase.step is not None]
    return next(group for step in steps for group in step.groups if group.problem_id == exchange.problem_id)


def test_once_sealed_it_is_refused_with_what_to_do() -> None:
    made = world()
    exchange, _ = told_group(made)
    while not [c for c in made.of(SealBatch) if c.student == "a"]:
        made.step()
    before = made.state.model_dump(exclude={"revision", "at", "acted"})
    [done] = kept(ask(made, exclude(exchange)))
    assert "is sealed" in str(done.refused) and "flag it, or silence" in str(done.refused)
    assert made.state.model_dump(exclude={"revision", "at", "acted"}) == before
    [flagged] = kept(ask(made, exclude(exchange, 3).model_copy(update={"act": "flag"})))
    assert flagged.refused is None


def test_a_batch_on_disk_that_the_state_does_not_know_of_is_sealed() -> None:
    """The broker died between the file and the commit: the batch will be adopted as it is."""
    made = world()
    exchange, _ = told_group(made)
    [done] = kept(ask(made, exclude(exchange), sealed=True))
    assert "is sealed" in str(done.refused)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"student": "c"}, "there is no exchange c."),
        ({"step": 9}, "there is no exchange a.s9."),
        ({"sample": 4}, "there is no exchange"),
        ({"problem_id": "nobody"}, "there is no exchange a.s1.nobody.1"),
    ],
)
def test_what_does_not_exist_is_refused(changes: dict[str, object], reason: str) -> None:
    made = world()
    exchange, _ = told_group(made)
    [done] = kept(ask(made, exclude(exchange.model_copy(update=changes))))
    assert reason in str(done.refused)


def test_feedback_that_has_not_come_cannot_be_excluded() -> None:
    made = world()
    while not made.of(IssueFeedback):
        made.step()
    issued = made.of(IssueFeedback)[0]
    assert isinstance(issued, IssueFeedback)
    exchange = ExchangeRef(student=issued.student, step=issued.step, problem_id=issued.problem_id, sample=0)
    [done] = kept(ask(made, exclude(exchange)))
    assert "no feedback to exclude" in str(done.refused)


@settings(max_examples=whole_runs(10))
@given(seed=st.integers(0, 10**6), when=st.integers(0, 60))
def test_a_tutor_that_a_person_silenced_is_not_asked_again_in_this_round(seed: int, when: int) -> None:
    made = world(seed)
    for _ in range(when):
        made.step()
    if made.state.status in (Status.FINAL_EVAL, Status.DONE):
        return
    round_ = made.state.round
    ask(made, silence("b"))
    asked_before = len(made.commands)
    assert [event.by for event in made.told(TutorSilenced)] == ["admin key 0123abcd"]
    [again] = kept(ask(made, silence("b", number=9)))
    assert "silenced already" in str(again.refused)
    assert made.finish().status is Status.DONE
    later = [c for c in made.commands[asked_before:] if isinstance(c, IssueFeedback) and c.tutor == "b"]
    assert {c.round for c in later} == set(range(round_ + 1, 3)), "a new round is a new chance"


def test_an_act_on_a_paused_run_is_obeyed_when_it_goes_on() -> None:
    from services.broker.machine.moves import Controlled

    made = world(problems_per_step=4)
    while not made.of(IssueFeedback):
        made.step()
    made.send(Controlled(made.at, "pause", "lunch"))
    ask(made, silence("b"))
    made.send(Controlled(made.at, "resume", "back"))
    lost = made.state.tallies["a"].lost_feedback.get("silenced", 0)
    issued = [c for c in made.of(IssueFeedback) if c.tutor == "b"]
    assert lost == len(issued)
    assert made.finish().status is Status.DONE


def test_a_run_that_ended_is_not_acted_on() -> None:
    made = world()
    exchange, _ = told_group(made)
    made.finish()
    [done] = kept(ask(made, silence("b")))
    assert "nobody tutors any more: the run is DONE" in str(done.refused)
    [done] = kept(ask(made, exclude(exchange)))
    assert "is sealed" in str(done.refused)


def test_keys_of_exchanges_are_read_as_they_are_written() -> None:
    exchange = ExchangeRef(student="a", step=3, problem_id="odd.s4/id.7", sample=2)
    assert ExchangeRef.parse(exchange.key) == exchange
    for bad in ("", "a", "a.s0.p.1", "a.s1.p", "a.sx.p.1", "../a.s1.p.1.x"):
        with pytest.raises(ValueError, match="expected an exchange such as"):
            ExchangeRef.parse(bad)
