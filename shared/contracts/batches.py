"""A sealed batch: the groups of one step, on disk, with everything that the trainer and a reader need.

`batches/<student>/s00017/` holds `groups.jsonl` (one BatchGroup a line, by problem, samples by index)
and `manifest.json`. It is written once and never changed: it is the feedback log.

In a run that streams, a group may be sealed ahead of its batch (`GroupSealed`), so that the trainer begins with it
while others are still under way. What counts is the batch: it names the groups by hash, in the order in which they are
added up, and a trainer that has begun with anything else begins again.
"""

from collections.abc import Iterable

from pydantic import Field

from shared.contracts.envelope import Message
from shared.contracts.jobs import PayloadRef
from shared.contracts.messages import ChatMessage, Contract


class BatchSample(Contract):
    """One rollout with what the self-teacher will see about it. `mask` 0 = no loss: there is nothing to show, or,
    for GRPO, which has no teacher, all rewards of the group are equal. withheld: feedback that was let through, but
    that a person excluded; the rest of the sample is as if there had been none."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    reward: float
    demonstration: int | None
    verdict: str | None
    feedback_raw: str | None
    feedback: str | None
    withheld: str | None = None
    removed: tuple[str, ...] = ()
    teacher_messages: tuple[ChatMessage, ...]
    mask: int = Field(ge=0, le=1)

    @property
    def told(self) -> bool:
        """Whether the tutor's feedback was let through, trained on or not: revisions are shown it either way."""
        return self.feedback is not None or self.withheld is not None


class PeerSample(Contract):
    """A rollout of the same problem that the peer drew, for HACPO. logprobs: by token of the peer's tokenizer, the one
    that ended it included; to the student it is its text. mask: as that of its group's own rollouts."""

    index: int
    text: str
    logprobs: tuple[float, ...]
    finish_reason: str
    reward: float
    mask: int = Field(ge=0, le=1)


class BatchGroup(Contract):
    """The n rollouts of one problem, and with HACPO those that the peer drew. tutor: who spoke, where it might
    have been one of several (`BatchManifest.tutor_of`)."""

    problem_id: str
    domain: str
    kind: str
    question: str
    messages: tuple[ChatMessage, ...]
    prompt_token_ids: tuple[int, ...]
    samples: tuple[BatchSample, ...]
    # Left out where there are none: batches of other methods are what they are without it, byte for byte.
    peer_samples: tuple[PeerSample, ...] = Field(default=(), exclude_if=lambda samples: not samples)
    tutor: str | None = Field(default=None, exclude_if=lambda tutor: tutor is None)


class Taught(Contract):
    """What one tutor said about a student's answers in one domain. kept: of `feedbacks`, those that it was shown."""

    tutor: str
    domain: str
    feedbacks: int
    kept: int


class AddedGroup(Contract):
    """A group whose gradient is added to a step's. sha256: of its JSON, which is its line in `groups.jsonl`."""

    problem_id: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BatchManifest(Contract):
    """What a sealed batch holds. verdicts counts words without the matched word (`match`, `no_match`, …).

    reward_variance: squared standard error of the mean reward, over groups; 0.25, the largest, for a single group.
    unique_share: of the rollouts in groups that hold a wrong one, the share that are distinct; None if there are none.
    mean_tokens: of a rollout; None in a batch that does not tell.
    fence: fencing token of the broker that sealed it, by which the next one knows its own; 0 where it is not told.
    tutor, tutor_version: of a student with one peer; the version is None where it was not asked.
    tutors: of a student with several, those that were asked, each with its version; which spoke is in the groups.
    taught: of such a student, what each of them said, by domain.
    capabilities: with HACPO, each student's mean reward over its last steps up to this one.
    order: of a batch that is added up group by group, all of its groups, mini-batch by mini-batch, in the order in
    which they are added.
    """

    run: str
    student: str
    round: int
    step: int
    phase_start: bool
    base_version: str
    tutor: str | None
    tutor_version: str | None
    template_hash: str
    groups: int
    samples: int
    active_samples: int
    kept_feedback: int
    mean_reward: float
    reward_variance: float
    unique_share: float | None
    verdicts: dict[str, int]
    groups_sha256: str
    mean_tokens: float | None = None
    fence: int = 0
    capabilities: dict[str, float] | None = Field(default=None, exclude_if=lambda capabilities: capabilities is None)
    tutors: dict[str, str] = Field(default_factory=dict, exclude_if=lambda tutors: not tutors)
    taught: tuple[Taught, ...] = Field(default=(), exclude_if=lambda taught: not taught)
    order: tuple[AddedGroup, ...] | None = Field(default=None, exclude_if=lambda order: order is None)

    def tutor_of(self, group: BatchGroup) -> tuple[str, str] | None:
        """Name and version of who was asked about a group of this batch; None if nobody was."""
        if group.tutor is not None:
            return group.tutor, self.tutors[group.tutor]
        if self.tutor is None or self.tutor_version is None:
            return None
        return self.tutor, self.tutor_version


class BatchSealed(Message):
    """Train on this. uri is relative to the run's directory; sha256 is that of manifest.json."""

    student: str
    step: int
    uri: str
    sha256: str
    base_version: str

    @property
    def key(self) -> str:
        return f"{self.student}.{self.step}.sealed"


class GroupSealed(Message):
    """Begin with this group of the step that comes next; its batch follows, and decides.

    position: of the group in the batch, which has `groups` of them. phase_start, base_version: as in its manifest.
    payload: a BatchGroup.
    """

    student: str
    step: int
    base_version: str
    phase_start: bool
    position: int = Field(ge=0)
    groups: int = Field(ge=1)
    group: AddedGroup
    payload: PayloadRef

    @property
    def key(self) -> str:
        # With the hash: a group whose feedback a person excludes is sealed anew.
        return f"{self.student}.{self.step}.{self.group.problem_id}.{self.group.sha256[:16]}.group"


def positions_of(problem_ids: Iterable[str]) -> dict[str, int]:
    """The place in a batch of the group of each problem: they lie in order of their ids."""
    return {problem_id: position for position, problem_id in enumerate(sorted(problem_ids))}


def mini_batch_of(position: int, groups: int, mini_batches: int) -> int:
    """Of a batch's group, from 0. They are dealt out in turn: a batch that is sorted by domain gives mini-batches that
    have every domain. Where there are fewer groups than `mini_batches`, each is one."""
    return position % min(mini_batches, groups)
