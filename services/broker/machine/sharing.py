"""Two students that share their rollouts (HACPO): the same problems, and no batch without the peer's answers. Pure.

What always holds: a step is sealed only when the peer's rollouts of the same step are all there, in its open step or,
where the peer is already further, in the batch that it sealed. As both wait for each other, both seal a step before
either opens the next one.
"""

from dataclasses import dataclass

from services.broker.machine.plan import Plan, PlannedProblem
from shared.contracts.run import JobStatus, PhaseState, RunState, StepState


@dataclass(frozen=True)
class SharingPlan(Plan):
    """Both students answer the problems that a plan gives the first of them."""

    def step_problems(self, student: str, step: int) -> list[PlannedProblem]:  # noqa: ARG002 - the same for both
        return super().step_problems(self.students[0], step)


def peer_has_answered(state: RunState, phase: PhaseState, step: StepState) -> bool:
    """Whether all of the peer's rollouts of this step are there."""
    peer = next(each for each in state.phases if each.student == phase.peer)
    if peer.step is not None and peer.step.step == step.step:
        return all(group.rollout.status is JobStatus.DONE for group in peer.step.groups)
    return peer.first_step + peer.steps_done > step.step
