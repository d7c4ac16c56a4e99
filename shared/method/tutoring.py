"""Who speaks about a problem, of those that may tutor a student this round. Pure.

Two students have no choice: the one that may tutor the other does. More students than two are not in the paper (arXiv
2606.14368), and a student of several may be worse than its tutee in the domain of a problem though its gap is small.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction


class TutorChoice(StrEnum):
    """`best`: whoever scored best in the problem's domain. `own_domain`: a specialist of that domain, the best of
    several. `ring`: the student that comes next, whatever the problem is."""

    BEST = "best"
    OWN_DOMAIN = "own_domain"
    RING = "ring"


def choose_tutor(
    choice: TutorChoice,
    able: Sequence[str],
    *,
    peers: Sequence[str],
    domain: str,
    strong_domain: Mapping[str, str],
    scores: Mapping[str, Fraction],
) -> str | None:
    """The one of `able` that speaks, or None. able: who may tutor the student on this problem; peers: all others, from
    the one that comes next on. scores: by student, in the problem's domain."""
    if len(peers) == 1:
        return able[0] if able else None
    match choice:
        case TutorChoice.RING:
            able = [name for name in able if name == peers[0]]
        case TutorChoice.OWN_DOMAIN:
            able = [name for name in able if strong_domain[name] == domain]
    # By name where scores are equal, and rationals, so that they are equal exactly where the counts are.
    return min(able, key=lambda name: (-scores[name], name), default=None)
