"""Three students and more in the state machine: a tutor by problem, and a silent one makes room for another."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.broker.machine.moves import Asked, IssueFeedback, IssueRevision, KeepAct, SealBatch
from services.broker.machine.plan import Plan, PlannedProblem
from shared.contracts.acting import SilenceAct
from shared.contracts.diagnostics import RevisionCount
from shared.contracts.events import GateDecided, TutorSilenced
from shared.contracts.run import Split, Status
from tests.fakes.examples import whole_runs
from tests.fakes.figures import revision_count
from tests.fakes.world import World, small_plan

DOMAIN_OF = {"phys": "physics", "chem": "chemistry", "bio": "biology"}


def plan_of(strong_domain: Mapping[str, str] = DOMAIN_OF, **changes: object) -> Plan:
    domains = tuple(dict.fromkeys(strong_domain.values()))
    problems = tuple(PlannedProblem(f"{domain}-{i}", domain) for domain in domains for i in range(4))
    fields: dict[str, object] = {
        "strong_domain": strong_domain,
        "train": problems,
        "partitions": {split: problems for split in Split},
        "majority": {split: dict.fromkeys(domains, 0.25) for split in Split},
        "balance_domains": True,
        "problems_per_step": 2 * len(domains),
    }
    return small_plan(**(fields | changes))


def world_of(plan: Plan, seed: int = 0, weak: int = 4) -> World:
    world = World(plan, seed=seed, weak=weak)
    world.start()
    return world


def domain_of(asked: IssueFeedback) -> str:
    return asked.problem_id.partition("-")[0]


@settings(max_examples=whole_runs(5))
@given(seed=st.integers(0, 10**6), sequential=st.booleans())
def test_in_any_order_three_students_end(seed: int, sequential: bool) -> None:
    end(3, seed, sequential=sequential)


def test_eight_students_end() -> None:
    end(8, 1, rounds=1, steps_per_round=1)


def end(count: int, seed: int, *, sequential: bool = False, **changes: object) -> None:
    """Each feedback has one tutor, and every step is sealed once."""
    names = [f"s{number}" for number in range(count)]
    plan = plan_of({name: f"d{number % 3}" for number, name in enumerate(names)}, parallel=not sequential, **changes)
    world = world_of(plan, seed)
    assert world.finish().status is Status.DONE
    assert world.state.steps == dict.fromkeys(names, plan.rounds * plan.steps_per_round)
    asked = world.of(IssueFeedback)
    assert len({(each.student, each.step, each.problem_id) for each in asked}) == len(asked) > 0
    assert all(each.tutor != each.student and each.tutor_version.startswith(f"{each.tutor}@v") for each in asked)
    assert all(each.job_id.endswith(f".feedback.by-{each.tutor}") for each in asked)
    assert len(world.of(SealBatch)) == sum(world.state.steps.values())


def test_equally_good_everywhere_the_first_by_name_speaks() -> None:
    world = world_of(plan_of())
    world.finish()
    assert {(each.student, each.tutor) for each in world.of(IssueFeedback)} == {
        ("bio", "chem"), ("chem", "bio"), ("phys", "bio")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        # Three of four right where they are weak: a gap of 1/4 to each other, which tau lets through.
        ("best", {("chem", "physics", "phys"), ("chem", "biology", "bio"), ("chem", "chemistry", "bio")}),
        ("own_domain", {("chem", "physics", "phys"), ("chem", "biology", "bio")}),
        ("ring", {("chem", domain, "phys") for domain in DOMAIN_OF.values()}),
    ],
)
def test_whom_the_choice_lets_speak(choice: str, expected: set[tuple[str, str, str]]) -> None:
    world = world_of(plan_of(tutor_choice=choice, tau=0.25, rounds=1), weak=3)
    world.finish()
    asked = {(each.student, domain_of(each), each.tutor) for each in world.of(IssueFeedback)}
    assert {each for each in asked if each[0] == "chem"} == expected


def test_where_the_gap_of_the_pair_is_too_large_nobody_speaks() -> None:
    world = world_of(plan_of(rounds=1), weak=3)
    assert world.finish().status is Status.DONE
    assert world.of(IssueFeedback) == []
    decision = world.told(GateDecided)[0].decision
    assert len(decision.pairs) == 6 and {pair.gap for pair in decision.pairs} == {0.25}
    assert decision.gaps == dict.fromkeys(DOMAIN_OF, 0.5), "over all domains"


def test_a_scope_of_all_domains_silences_specialists_of_three() -> None:
    asked = {}
    for scope in ("pair", "all"):
        world = world_of(plan_of(gate_scope=scope, tau=0.25, rounds=1), weak=3)
        world.finish()
        asked[scope] = len(world.of(IssueFeedback))
    assert asked["pair"] > 0 == asked["all"]


def test_a_tutor_that_breaks_one_student_is_silenced_for_it_alone_and_another_takes_over() -> None:
    def breaks(command: IssueRevision) -> tuple[RevisionCount, ...]:
        tutor = next(each.tutor for each in world.of(IssueFeedback) if _same(each, command))
        broke = 3 if (tutor, command.student) == ("bio", "phys") else 0
        return (revision_count(broke, 3 - broke, round_=command.round, tutor=tutor),)

    world = World(plan_of(revise_share=1.0, steps_per_round=4, rounds=1), revises=breaks)
    world.start()
    assert world.finish().status is Status.DONE
    (silenced,) = world.told(TutorSilenced)
    assert (silenced.tutor, silenced.student) == ("bio", "phys")
    spoke = [each.tutor for each in world.of(IssueFeedback) if each.student == "phys"]
    assert set(spoke) == {"bio", "chem"} and spoke[-1] == "chem"
    assert {each.tutor for each in world.of(IssueFeedback) if each.student == "chem"} == {"bio"}


@pytest.mark.parametrize(("student", "tutees"), [("phys", {"phys"}), (None, {"phys", "chem"})])
def test_a_person_silences_a_tutor_for_one_student_or_for_all(student: str | None, tutees: set[str]) -> None:
    world = world_of(plan_of(rounds=1))
    while not world.of(IssueFeedback):
        world.step()
    act = SilenceAct(id="0" * 32, tutor="bio", student=student, by="key 0123", reason="nonsense")
    world.send(Asked(world.at, act))
    assert {(each.tutor, each.student) for each in world.told(TutorSilenced)} == {("bio", each) for each in tutees}
    world.send(Asked(world.at, act.model_copy(update={"id": "1" * 32})))
    assert [kept.acted.refused for kept in world.of(KeepAct)] == [None, "tutor bio is silenced already in round 1"]
    itself = act.model_copy(update={"id": "2" * 32, "student": "bio"})
    world.send(Asked(world.at, itself))
    assert world.of(KeepAct)[-1].acted.refused == "expected a tutee of chem, phys, got 'bio'"
    assert world.finish().status is Status.DONE


def test_one_student_alone_trains_on_what_it_finds_itself() -> None:
    world = world_of(plan_of({"solo": "physics"}, gate_mode="never"))
    assert world.finish().status is Status.DONE
    assert world.of(IssueFeedback) == [] and world.state.gates[0].pairs == []


def _same(asked: IssueFeedback, revised: IssueRevision) -> bool:
    return (asked.student, asked.step, asked.problem_id) == (revised.student, revised.step, revised.problem_id)
