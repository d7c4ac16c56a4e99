"""What revisions did to the rollouts of a group: fixed, broke or kept, with and without the tutor's feedback. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.diagnostics import RevisionCount


@dataclass(frozen=True)
class Revised:
    """One rollout before and after. told: its revision's prompt held the tutor's feedback."""

    before: bool
    after: bool
    told: bool

    @property
    def outcome(self) -> str:
        """The name of its count in RevisionCount."""
        if self.before:
            return "kept_right" if self.after else "broke"
        return "fixed" if self.after else "kept_wrong"


def count_group(revised: Sequence[Revised], *, round_: int, tutor: str) -> tuple[RevisionCount, ...]:
    """The counts of one group whose every rollout was revised: at most one with and one without feedback."""
    wrong = sum(not each.before for each in revised)
    counts = []
    for told in (True, False):
        alike = [each for each in revised if each.told is told]
        outcomes = Counter(each.outcome for each in alike)
        if alike:
            right_here = sum(each.before for each in alike)
            counts.append(
                RevisionCount(
                    round=round_,
                    tutor=tutor,
                    told=told,
                    wrong_rollouts=wrong,
                    groups=1,
                    right_squares=right_here**2,
                    wrong_squares=(len(alike) - right_here) ** 2,
                    **outcomes,
                )
            )
    return tuple(counts)
