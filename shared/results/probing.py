"""What a probe says of a pair before it is trained: who knows what, who tells it, who follows, what the loss reaches.

Pure. A share over nothing is None. An error is a wrong answer, each distinct one of a problem once; what the tutor says
is asked of the errors alone. Why a kind cannot be taught is the first link that does not hold of a chain: somebody
knows it, the tutor says it, the tutee follows, the loss reaches the tokens in which it has to change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shared.contracts.probing import Reach
from shared.results.figures import Part, Share

KNOWN = 0.8
"""Right in this share of its answers, a student knows a kind: there is little to teach."""

HOLDS = 0.5
"""A link of the chain holds if it does in this share of the cases."""

PULLS = 0.05
"""A mean pull below this teaches next to nothing: with the Jensen-Shannon divergence a token that the student gives 3 %
gets it, one of 20 to 50 % gets 0.14."""

ENOUGH_ERRORS = 4
"""Of fewer errors a link is not judged: one of three may be chance."""

ENOUGH_TOKENS = 10
"""Of fewer tokens at which self-teacher and student differ the loss is not judged."""

Finding = Literal["known", "too_few", "nobody_knows", "tutor_silent", "tutee_deaf", "loss_blind", "teachable"]
"""Of a student and a kind: nothing to teach, too few errors to tell, the link that does not hold, or none such."""


@dataclass(frozen=True)
class ToldError:
    """One wrong answer and what came of it. formula, numbers: named by the tutor; None where the problem has none.

    called_wrong: None where the tutor does not say whether the answer is right. delivered: feedback passed anchor and
    sanitizer; told: what it passed on is all that is needed (for problems without a formula, as delivered). fixed:
    right after a revision with that feedback alone, None without it. reach: None where nothing was measured.
    """

    formula: bool | None
    numbers: bool | None
    called_wrong: bool | None
    delivered: bool
    told: bool
    fixed: bool | None
    reach: Reach | None = None


@dataclass(frozen=True)
class ProbedProblem:
    """One student on one problem: for each sample whether it is right; None where there is nothing to show.

    solution_shown: what they are right after is a right solution in the prompt; hinted: the right hint alone.
    """

    student: str
    domain: str
    kind: str
    plain: tuple[bool, ...]
    hinted: tuple[bool, ...] | None
    solution_shown: tuple[bool, ...] | None
    errors: tuple[ToldError, ...]


class KindRow(Part):
    """One student in one kind of problem. Shares; `chance`: of a group of rollouts, that one of them is right.

    unseen: of all tokens of its errors, those at which the self-teacher wants a token to which the student gives less
    than 1 %. differing: at how many the two differ; unseen_where_differing: the share of these. pull: mean over the
    unseen ones.
    """

    student: str
    domain: str
    kind: str
    problems: int
    answers: int
    plain: float
    chance: float
    hinted: float | None
    solution_shown: float | None
    errors: int
    formula: float | None
    numbers: float | None
    true_verdict: float | None
    delivered: float | None
    told: float | None
    fixed: float | None
    unseen: float | None
    differing: int
    unseen_where_differing: float | None
    pull: float | None
    finding: Finding

    @property
    def by_itself(self) -> bool:
        """Whether its own right rollouts can show it the way, whoever else cannot."""
        return self.chance >= HOLDS


class Probe(Part):
    """The file of a probe, and its `--json`. tutoring: False where nobody tutors in a run of these settings.

    samples: answers to a problem; rollouts: n of a run, which `chance` is about; seconds: wall time of the probe,
    without making specialists.
    """

    name: str
    seed: int
    method: str
    tutoring: bool
    problems_per_kind: int
    samples: int
    rollouts: int
    temperature: float
    seconds: float
    rows: list[KindRow]

    def of(self, student: str) -> list[KindRow]:
        return [row for row in self.rows if row.student == student]

    @property
    def students(self) -> list[str]:
        return sorted({row.student for row in self.rows})


def tally(probed: Sequence[ProbedProblem], rollouts: int) -> list[KindRow]:
    """A row for each student and kind, in the order in which they come."""
    groups: dict[tuple[str, str, str], list[ProbedProblem]] = {}
    for each in probed:
        groups.setdefault((each.student, each.domain, each.kind), []).append(each)
    plain = {key: _plain(group) for key, group in groups.items()}
    rows = []
    for key, group in groups.items():
        student, domain, kind = key
        peer = max((value for (other, *what), value in plain.items() if other != student and what == [domain, kind]))
        rows.append(_row(group, rollouts, peer))
    return rows


def _row(group: Sequence[ProbedProblem], rollouts: int, peer: float) -> KindRow:
    """peer: how often the tutor is itself right in this kind."""
    errors = [error for each in group for error in each.errors]
    found = [error.reach for error in errors if error.reach is not None]
    unseen, differing = sum(reach.unseen for reach in found), sum(reach.differing for reach in found)
    # By problem: where some are always right and others never, the mean rate would promise too much.
    chances = [1 - (1 - sum(each.plain) / len(each.plain)) ** rollouts for each in group]
    row = KindRow(
        student=group[0].student,
        domain=group[0].domain,
        kind=group[0].kind,
        problems=len(group),
        answers=sum(len(each.plain) for each in group),
        plain=_plain(group),
        chance=sum(chances) / len(chances),
        hinted=_share(right for each in group for right in each.hinted or ()),
        solution_shown=_share(right for each in group for right in each.solution_shown or ()),
        errors=len(errors),
        formula=_share(error.formula for error in errors),
        numbers=_share(error.numbers for error in errors),
        # All of them are wrong, so to call it wrong is to tell the truth.
        true_verdict=_share(error.called_wrong for error in errors),
        delivered=_share(error.delivered for error in errors),
        told=_share(error.told for error in errors),
        fixed=_share(error.fixed for error in errors),
        unseen=Share(unseen, sum(reach.tokens for reach in found)).value,
        differing=differing,
        unseen_where_differing=Share(unseen, differing).value,
        pull=sum(reach.pull for reach in found) / unseen if unseen else None,
        finding="teachable",
    )
    return row.model_copy(update={"finding": finding(row, peer)})


def finding(row: KindRow, peer: float) -> Finding:
    """The first link that does not hold between a peer, right in that share, and a student with this row. A link that
    was not measured holds."""
    if row.plain >= KNOWN:
        return "known"
    if row.errors < ENOUGH_ERRORS:
        return "too_few"
    if _fails(row.told):
        return "nobody_knows" if peer < HOLDS else "tutor_silent"
    # With the right hint where there is one, since what a tutor said may be wrong; else after what it did say.
    if _fails(row.hinted if row.hinted is not None else row.fixed):
        return "tutee_deaf"
    pulled = row.pull is None or row.pull >= PULLS
    if row.differing >= ENOUGH_TOKENS and (row.unseen_where_differing or 0.0) >= HOLDS and not pulled:
        return "loss_blind"
    return "teachable"


def _fails(share: float | None) -> bool:
    return share is not None and share < HOLDS


def _plain(group: Sequence[ProbedProblem]) -> float:
    answers = [right for each in group for right in each.plain]
    return sum(answers) / len(answers)


def _share(values: Iterable[bool | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return Share(sum(known), len(known)).value
