"""The schedule as a pure trace: every command of a run of two rounds of three steps, in order, written out.

One problem a step and one evaluation job a partition keep the trace short; events arrive in the order in which
their work was issued. A line is `kind student version` and, for feedback, `of student's step by the tutor's version`.
"""

import pytest

from services.broker.machine.moves import (
    Command,
    Forget,
    IssueEval,
    IssueFeedback,
    IssueRevision,
    IssueRollout,
    KeepRecord,
    SealBatch,
    Serve,
    Tell,
)
from shared.contracts.events import Evaluated, GateDecided, StatusChanged, StepApplied
from shared.contracts.run import Status
from tests.fakes.world import World, small_plan

OPENING = """\
serve a: a@v0
serve b: b@v0
serve a: a@v0
serve b: b@v0
eval a@v0 validation
eval b@v0 validation
eval a@v0 test
eval b@v0 test
score a@v0 validation
score b@v0 validation
score a@v0 test
score b@v0 test
forget res:a:r1.validation
forget res:b:r1.validation
forget res:a:r1.test
forget res:b:r1.test
-- round 1 GATED
gate a b
-- round 1 TRAINING
"""

BETWEEN = """\
-- round 1 ROUND_DONE
-- round 2 VALIDATING
serve a: a@v3
serve b: b@v3
eval a@v3 validation
eval b@v3 validation
score a@v3 validation
score b@v3 validation
forget res:a:r2.validation
forget res:b:r2.validation
-- round 2 GATED
gate a b
-- round 2 TRAINING
"""

CLOSING = """\
-- round 2 ROUND_DONE
-- round 2 FINAL_EVAL
serve a: a@v6
serve b: b@v6
eval a@v6 validation
eval b@v6 validation
eval a@v6 test
eval b@v6 test
score a@v6 validation
score b@v6 validation
score a@v6 test
score b@v6 test
forget res:a:r3.validation
forget res:b:r3.validation
forget res:a:r3.test
forget res:b:r3.test
-- round 2 DONE
"""

PARALLEL_ROUND_1 = """\
serve a: a@v0
serve b: b@v0
rollout a@v0 for step 1
rollout b@v0 for step 1
feedback on a step 1 by b@v0
feedback on b step 1 by a@v0
seal a step 1
seal b step 1
serve a: a@v0 a@v1
serve b: b@v0 b@v1
forget res:a:s1
rollout a@v1 for step 2
forget res:b:s1
rollout b@v1 for step 2
feedback on a step 2 by b@v0
feedback on b step 2 by a@v0
seal a step 2
seal b step 2
serve a: a@v0 a@v2
serve b: b@v0 b@v2
forget res:a:s2
rollout a@v2 for step 3
forget res:b:s2
rollout b@v2 for step 3
feedback on a step 3 by b@v0
feedback on b step 3 by a@v0
seal a step 3
seal b step 3
serve a: a@v0 a@v3
serve b: b@v0 b@v3
forget res:a:s3
serve b: b@v3
forget res:b:s3
serve a: a@v3
"""

PARALLEL_ROUND_2 = """\
serve a: a@v3
serve b: b@v3
rollout a@v3 for step 4
rollout b@v3 for step 4
feedback on a step 4 by b@v3
feedback on b step 4 by a@v3
seal a step 4
seal b step 4
serve a: a@v3 a@v4
serve b: b@v3 b@v4
forget res:a:s4
rollout a@v4 for step 5
forget res:b:s4
rollout b@v4 for step 5
feedback on a step 5 by b@v3
feedback on b step 5 by a@v3
seal a step 5
seal b step 5
serve a: a@v3 a@v5
serve b: b@v3 b@v5
forget res:a:s5
rollout a@v5 for step 6
forget res:b:s5
rollout b@v5 for step 6
feedback on a step 6 by b@v3
feedback on b step 6 by a@v3
seal a step 6
seal b step 6
serve a: a@v3 a@v6
serve b: b@v3 b@v6
forget res:a:s6
serve b: b@v6
forget res:b:s6
serve a: a@v6
"""

SEQUENTIAL_ROUND_1 = """\
serve a: a@v0
serve b: b@v0
rollout a@v0 for step 1
feedback on a step 1 by b@v0
seal a step 1
serve a: a@v0 a@v1
forget res:a:s1
rollout a@v1 for step 2
feedback on a step 2 by b@v0
seal a step 2
serve a: a@v0 a@v2
forget res:a:s2
rollout a@v2 for step 3
feedback on a step 3 by b@v0
seal a step 3
serve a: a@v0 a@v3
forget res:a:s3
serve b: b@v0
rollout b@v0 for step 1
feedback on b step 1 by a@v0
seal b step 1
serve b: b@v1
forget res:b:s1
rollout b@v1 for step 2
feedback on b step 2 by a@v0
seal b step 2
serve b: b@v2
forget res:b:s2
rollout b@v2 for step 3
feedback on b step 3 by a@v0
seal b step 3
serve b: b@v3
forget res:b:s3
serve a: a@v3
"""

SEQUENTIAL_ROUND_2 = """\
serve a: a@v3
serve b: b@v3
rollout a@v3 for step 4
feedback on a step 4 by b@v3
seal a step 4
serve a: a@v3 a@v4
forget res:a:s4
rollout a@v4 for step 5
feedback on a step 5 by b@v3
seal a step 5
serve a: a@v3 a@v5
forget res:a:s5
rollout a@v5 for step 6
feedback on a step 6 by b@v3
seal a step 6
serve a: a@v3 a@v6
forget res:a:s6
serve b: b@v3
rollout b@v3 for step 4
feedback on b step 4 by a@v3
seal b step 4
serve b: b@v4
forget res:b:s4
rollout b@v4 for step 5
feedback on b step 5 by a@v3
seal b step 5
serve b: b@v5
forget res:b:s5
rollout b@v5 for step 6
feedback on b step 6 by a@v3
seal b step 6
serve b: b@v6
forget res:b:s6
serve a: a@v6
"""


def told(command: Command) -> str:
    match command:
        case IssueEval():
            return f"eval {command.version} {command.split.value}"
        case IssueRollout():
            return f"rollout {command.version} for step {command.step}"
        case IssueFeedback():
            return f"feedback on {command.student} step {command.step} by {command.tutor_version}"
        case IssueRevision():
            return f"revision {command.version} for step {command.step}"
        case SealBatch():
            return f"seal {command.student} step {command.step}"
        case Serve():
            return f"serve {command.student}: {' '.join(command.versions)}"
        case Tell(event=StatusChanged(round=round_, status=status)):
            return f"-- round {round_} {status}"
        case Tell(event=GateDecided(decision=decision)):
            return "gate " + " ".join(sorted(name for name, yes in decision.cognizant.items() if yes))
        case Tell(event=Evaluated(version=version, split=split)):
            return f"score {version} {split}"
        case Tell(event=StepApplied()) | KeepRecord():
            return ""
        case Forget():
            return f"forget {command.key}"
    raise AssertionError(f"not part of the schedule: {command}")


def trace(parallel: bool) -> list[str]:
    plan = small_plan(
        parallel=parallel, rounds=2, steps_per_round=3, problems_per_step=1, problems_per_job=100, revise_share=0.0
    )
    world = World(plan)
    world.start()
    while world.pending:
        world.at += 1
        world.send(world.pending.pop(0))
    assert world.state.status is Status.DONE
    # What is told and kept of a step is for readers; it moves nothing.
    return [line for command in world.commands if (line := told(command))]


@pytest.mark.parametrize(
    ("parallel", "first", "second"),
    [(True, PARALLEL_ROUND_1, PARALLEL_ROUND_2), (False, SEQUENTIAL_ROUND_1, SEQUENTIAL_ROUND_2)],
    ids=["parallel", "sequential"],
)
def test_the_whole_trace(parallel: bool, first: str, second: str) -> None:
    assert trace(parallel) == (OPENING + first + BETWEEN + second + CLOSING).splitlines()
