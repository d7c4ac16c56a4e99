"""A broker whose lease was lost, and which has not noticed, seals a step under the one that took over."""

import threading
import uuid
from pathlib import Path

import pytest

from services.broker.exchange.batches import adopt
from shared.bus.keys import RESULTS
from shared.contracts.acting import ActAsked, ExchangeAct, ExchangeRef
from shared.contracts.jobs import JobKind
from shared.contracts.run import JobStatus, RunState, Status
from shared.errors import FencedError
from shared.files.batches import read_groups
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, THREE, BrokerBench


def feedback_of(state: RunState) -> list[JobStatus]:
    steps = [phase.step for phase in state.phases if phase.student == "a" and phase.step is not None]
    return [group.feedback.status for step in steps for group in step.groups]


# In a ring b alone tutors a, and others tutor the rest.
@pytest.mark.parametrize("overrides", [(), (*THREE, "tutoring.choice=ring")], ids=["two", "three"])
def test_what_it_writes_is_not_trained_on_and_an_exclusion_made_since_holds(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    bench = BrokerBench(tmp_path, ("feedback.revise_share=0.0", "gate.mode=always", *overrides))
    tutor, problems = bench.students["b"], bench.settings.problems.per_step
    tutor.slow = {JobKind.FEEDBACK}
    bench.run(lambda state: feedback_of(state) == [JobStatus.STARTED] * problems)
    last = tutor.begun.pop()
    tutor.end_begun()
    bench.run(lambda state: JobStatus.DONE in feedback_of(state))

    stale = bench.runner
    bench.start()
    problem = next(
        group.problem_id
        for phase in bench.state.phases
        for group in (phase.step.groups if phase.student == "a" and phase.step else [])
        if group.feedback.status is JobStatus.DONE
    )
    exchange = ExchangeRef(student="a", step=1, problem_id=problem, sample=0)
    act = ExchangeAct(id=uuid.uuid4().hex, act="exclude", exchange=exchange, by="me", reason="wrong")
    bench.workers.publish(RESULTS, ActAsked(act=act))
    bench.turn()
    [acted] = bench.events("acted")
    assert acted.kind == "acted" and acted.refused is None

    tutor.begun.append(last)
    tutor.end_begun()
    with pytest.raises(FencedError):
        stale.loop(threading.Event(), threading.Event())
    store = LocalStore(tmp_path)
    written = adopt(store, "a", 1, RUN)
    assert written is not None and written.manifest.fence < bench.state.fence, "the stale one has sealed step 1"

    tutor.slow = set()
    bench.finish()
    sealed = adopt(store, "a", 1, RUN)
    assert sealed is not None and sealed.manifest.fence == bench.state.fence
    groups = read_groups(store, sealed.message.uri, sealed.manifest)
    withheld = {(g.problem_id, s.index) for g in groups for s in g.samples if s.withheld is not None}
    assert withheld == {(problem, 0)}
    names = sorted(path.name for path in (tmp_path / "batches" / "a").iterdir())
    assert names == ["s00001", "s00002", f"unannounced-{written.manifest.fence}-s00001"]
    assert bench.state.status is Status.DONE
    assert bench.trainers["a"].applied == [1, 2]
