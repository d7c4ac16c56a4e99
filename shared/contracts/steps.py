"""Records of finished steps: one small file each, `steps/<student>/s00017.json` below the run's directory."""

from shared.contracts.ids import step_name
from shared.contracts.messages import Contract
from shared.contracts.weights import StepMetrics


class StepRecord(Contract):
    """What one step looked like. tutored: its tutor was asked. Rewards and unique share as in its batch's manifest."""

    student: str
    round: int
    step: int
    version: str
    tutored: bool
    mean_reward: float | None
    unique_share: float | None
    metrics: StepMetrics


def step_records(student: str) -> str:
    """Directory of a student's records, relative to the run's."""
    return f"steps/{student}"


def step_record(student: str, step: int) -> str:
    return f"{step_records(student)}/{step_name(step)}.json"
