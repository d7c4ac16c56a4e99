"""Weight versions: the manifest beside the files, the announcements around a swap, and the record of each step.

`steps/<student>/s00017.json` below the run's directory is the record of one finished step.
"""

from typing import Literal

from pydantic import Field

from shared.contracts.envelope import Message
from shared.contracts.ids import step_name
from shared.contracts.messages import Contract


class FileEntry(Contract):
    name: str
    sha256: str
    bytes: int


class WeightsManifest(Contract):
    """`weights/<student>/v000017/manifest.json`. checksum covers the tensors (shared.modeling.adapters).

    restores: the version whose tensors these are, where somebody went back to it; then no batch made this one.
    """

    run: str
    student: str
    version: str
    parent: str | None
    kind: Literal["lora", "full"]
    step: int
    batch_sha256: str | None
    base_model: str
    files: tuple[FileEntry, ...]
    checksum: str
    probe: tuple[float, ...]
    restores: str | None = None


class WeightsPublished(Message):
    """A new version lies complete at `uri` (relative to the run's directory)."""

    student: str
    version: str
    step: int
    uri: str
    manifest_sha256: str

    @property
    def key(self) -> str:
        return f"{self.version}.published"


class VersionLoaded(Message):
    """A replica holds `version` now; checksum is that of the tensors it loaded."""

    student: str
    replica: str
    version: str
    checksum: str
    seconds: float

    @property
    def key(self) -> str:
        # By replica: each has to say it for itself.
        return f"{self.version}.{self.replica}.loaded"


class VersionRefused(Message):
    """A replica could not load `version`; it goes on serving what it had."""

    student: str
    replica: str
    version: str
    reason: str

    @property
    def key(self) -> str:
        return f"{self.version}.{self.replica}.refused"


class ServeSet(Contract):
    """The versions that every replica of a student must hold: the live one and the frozen tutor.

    revision: that of the state which said it. The same versions said once more are tried anew, whoever refused them.
    """

    live: str
    versions: tuple[str, ...]
    revision: int = 0


class StepMetrics(Contract):
    """What one optimizer step looked like. Rates are shares in [0, 1]; seconds by stage of the trainer.

    peer_share: of the peer's rollouts, those whose ratio lay within the clip, so that they had a gradient; None where
    there are none.
    """

    loss: float
    grad_norm: float
    active_share: float
    tokens: int
    delta_logprob: float
    clipped_share: float
    effective_sample_share: float
    skipped_updates: int
    peer_share: float | None = Field(default=None, exclude_if=lambda share: share is None)
    seconds: dict[str, float]


class StepDone(Message):
    """Step `step` is applied and `version` is published; sent again after a restart, with the same key."""

    student: str
    step: int
    version: str
    checksum: str
    batch_sha256: str
    metrics: StepMetrics

    @property
    def key(self) -> str:
        return f"{self.student}.{self.step}.done"


class StepFailed(Message):
    """The trainer cannot go on with step `step` (for example too many non-finite updates in a row)."""

    student: str
    step: int
    reason: str

    @property
    def key(self) -> str:
        return f"{self.student}.{self.step}.failed"


class ReplayedStep(Contract):
    """A step made again from its sealed batch. recorded: the checksum of the run's own version, if it is there."""

    student: str
    step: int
    version: str
    checksum: str
    recorded: str | None
    loss: float
    grad_norm: float


class StepRecord(Contract):
    """What one step looked like. tutored: its tutor was asked. Rewards, unique share and mean tokens as in its batch's
    manifest."""

    student: str
    round: int
    step: int
    version: str
    tutored: bool
    mean_reward: float | None
    unique_share: float | None
    mean_tokens: float | None = None
    metrics: StepMetrics


def step_records(student: str) -> str:
    """Directory of a student's records, relative to the run's."""
    return f"steps/{student}"


# One file each and no log: a step that is made again writes the same file again.
def step_record(student: str, step: int) -> str:
    return f"{step_records(student)}/{step_name(step)}.json"
