"""What the run's state keeps to judge the run by: counts of revisions, step times, watches and alarms."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

AlarmName = Literal[
    "nothing_trained",
    "near_zero_gradient",
    "reward_collapse",
    "answer_collapse",
    "engine_drift",
    "length_drift",
    "validation_gap",
    "answer_form",
]

StepKind = Literal["with_feedback", "without_feedback"]


class StateModel(BaseModel):
    """Mutable inside the broker's state machine only; everyone else reads it. Numbers in JSON as in a Contract."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class RevisionCount(StateModel):
    """Revisions that belong together: of one round, tutor and difficulty, with or without feedback in the prompt.

    wrong_rollouts: of the n rollouts of each of their groups. told: the prompt held the tutor's feedback.
    right_squares, wrong_squares: sums over groups of the squared number of revised rollouts that were right,
    wrong; those of one group are not independent, and the squares say how much they weigh (shared.method.intervals).
    """

    round: int
    tutor: str
    told: bool
    wrong_rollouts: int
    groups: int = 0
    kept_right: int = 0
    broke: int = 0
    fixed: int = 0
    kept_wrong: int = 0
    right_squares: int = 0
    wrong_squares: int = 0

    @property
    def right(self) -> int:
        return self.kept_right + self.broke

    @property
    def wrong(self) -> int:
        return self.kept_wrong + self.fixed

    def like(self, other: "RevisionCount") -> bool:
        return self._key() == other._key()

    def include(self, other: "RevisionCount") -> None:
        """Add the counts of other groups that are like these."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _key(self) -> tuple[int, str, bool, int]:
        # By the number of wrong rollouts, too: what answering again does by chance depends on it
        # (shared.method.silencing).
        return self.round, self.tutor, self.told, self.wrong_rollouts


COUNTED = ("groups", "kept_right", "broke", "fixed", "kept_wrong", "right_squares", "wrong_squares")


class StepTime(StateModel):
    """Wall time of whole steps, from their first job to the new version served."""

    steps: int = 0
    seconds: float = 0.0


class Silenced(StateModel):
    """A tutor that may not speak to this tutee for the rest of the round, and the numbers that say why.

    by, reason: of the person who silenced it, None where the rule did; the numbers are then those of that moment, 0
    where nothing was measured.
    right: revised rollouts that were right and whose prompt held its feedback. chance: share of them that would be
    wrong had the student merely answered again. low: lower end of the break-rate's interval. bound: what it exceeds.
    """

    round: int
    step: int
    tutor: str
    student: str
    broke: int
    right: int
    break_rate: float
    low: float
    chance: float
    bound: float
    by: str | None = None
    reason: str | None = None


class RewardWindow(StateModel):
    """Mean reward of some steps, and the squared standard error of that mean over groups."""

    mean: float
    variance: float


class BatchRewards(StateModel):
    """What a sealed batch says of its rollouts.

    variance: squared standard error of the mean reward, over groups. unique_share: of the rollouts of groups that
    hold a wrong one, the share that are distinct in their group; None if there is no such group. mean_tokens: of an
    answer; None where the batch does not say.
    """

    mean: float
    variance: float
    unique_share: float | None
    mean_tokens: float | None = None


class StepLook(StateModel):
    """What alarms ask of one step. flat: its gradient was near zero though its loss was not. active: some rollout was
    trained on."""

    rewards: BatchRewards | None
    flat: bool
    active: bool = True
    delta_logprob: float


class FirstLengths(StateModel):
    """Mean tokens of an answer in the first round, over its steps so far."""

    mean: float
    steps: int


class AlarmWatch(StateModel):
    """One student's last steps (as many as the alarms look at), its first and its best stretch of so many, how long its
    answers were at first, and the alarms that stand."""

    recent: list[StepLook] = Field(default_factory=list)
    first: RewardWindow | None = None
    best: RewardWindow | None = None
    lengths: FirstLengths | None = None
    standing: list[AlarmName] = Field(default_factory=list)


class Alarm(StateModel):
    """An alarm as it was raised; it stands until the condition is gone, and may be raised again."""

    student: str
    alarm: AlarmName
    round: int
    step: int
    reason: str
