"""How often what a step leaves is read: each output once, each feedback judged once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from services.broker.exchange.batches import adopt
from services.broker.exchange.groups import GroupReader
from shared.contracts.jobs import JobKind, PayloadRef
from shared.contracts.run import Status
from shared.files.batches import read_groups
from shared.files.store import LocalStore
from shared.problems.integer import IntegerFormat
from shared.problems.problem import Judgement, Problem
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer

TOKENS_A_TEXT = 3
"""Of the bench's students."""


class CountingBus(MemoryBus):
    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.fetched: Counter[str] = Counter()

    def get_payload(self, ref: PayloadRef) -> bytes:
        self.fetched[ref.field] += 1
        return super().get_payload(ref)


class CountingFormat(IntegerFormat):
    def __init__(self) -> None:
        self.judged = 0

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        self.judged += 1
        return super().judge_feedback(raw, problem)


def test_every_output_is_fetched_once_and_every_feedback_judged_once(run_dir: Path) -> None:
    """Though graded, sent to the tutor, told, revised and sealed."""
    server = MemoryServer()
    buses: list[CountingBus] = []

    def open_bus() -> CountingBus:
        buses.append(CountingBus(server))
        return buses[-1]

    bench = BrokerBench(run_dir, server=server, open_bus=open_bus)
    counting = CountingFormat()
    bench.problems = replace(bench.problems, format=counting)
    bench.start()
    bench.finish()
    fetched = {name: count for name, count in buses[-1].fetched.items() if name.endswith(".out")}
    assert len([name for name in fetched if ".feedback" in name]) == len(bench.events("feedback")) / 3 == 8
    assert set(fetched.values()) == {1}
    done = [each for student in bench.students.values() for each in student.done]
    asked = sum(each.output_tokens for each in done if each.kind is JobKind.FEEDBACK) // TOKENS_A_TEXT
    assert counting.judged == asked > 8


def test_a_revision_finds_its_rollouts_after_a_restart(run_dir: Path) -> None:
    """Its step is sealed and closed, and nothing of it is kept in memory: the batch tells."""
    bench = BrokerBench(run_dir)
    bench.finish()
    assert bench.state.status is Status.DONE
    store = LocalStore(run_dir)
    sealed = adopt(store, "a", 1, RUN)
    assert sealed is not None
    for group in read_groups(store, sealed.message.uri, sealed.manifest):
        reader = GroupReader(bench.settings, bench.problems, bench.workers, store)
        found = reader.before(bench.state, "a", 1, group.problem_id)
        assert [(each.right, each.told) for each in found] == [(s.reward == 1.0, s.told) for s in group.samples]
