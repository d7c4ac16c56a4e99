"""What each rank does of a mini-batch: packs are dealt, never cut, and every rank makes as many passes as the others.

What always holds: every pack is dealt once; the same rows are dealt the same way, whoever asks; one rank gets
what there is in the order of `micro_batches`; and where a rank has fewer passes than another, it makes up for it with
passes of no consequence, because weights that are shared out are gathered and given back by all ranks at once.
"""

from collections.abc import Sequence

from services.trainer.step.trees import Pack, Row, micro_batches

# Two tokens: the one that is predicted, and the one that it is predicted from. Its loss is multiplied by 0.
_NOTHING = Row(group=-1, prompt=(0,), teacher_prompt=(0,), response=(0,), logprobs=(0.0,), active=False)

Share = list[list[Pack]]
"""Micro-batches of one rank."""


def shares(packs: Sequence[Pack], ranks: int, limit_tokens: int, tree_tokens: int) -> list[Share]:
    """By rank, its micro-batches (as `micro_batches` makes them), equally many on all."""
    dealt = dealt_out([_cost(pack) for pack in packs], ranks)
    return evened([micro_batches([packs[at] for at in each], limit_tokens, tree_tokens) for each in dealt])


def evened(dealt: Sequence[Share]) -> list[Share]:
    """With as many passes on each rank as on that which has most."""
    passes = max(map(len, dealt))
    return [share + [[_empty()] for _ in range(passes - len(share))] for share in dealt]


def counts(packs: Sequence[Pack]) -> bool:
    """Whether a micro-batch is more than one that makes up for a missing one."""
    return packs[0].rows[0] is not _NOTHING


def dealt_out(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """By rank, the places of what it does of things that cost so much, ascending: the most costly one first, each to
    the rank that has least to do so far."""
    has = [0] * ranks
    owner: dict[int, int] = {}
    for at in sorted(range(len(costs)), key=lambda each: -costs[each]):
        owner[at] = min(range(ranks), key=lambda rank: has[rank])
        has[owner[at]] += costs[at]
    return [[at for at in range(len(costs)) if owner[at] == rank] for rank in range(ranks)]


def _cost(pack: Pack) -> int:
    """Tokens that the student and its teacher compute."""
    return len(pack.student.tokens) + len(pack.teacher.tokens)


def _empty() -> Pack:
    pack = Pack()
    pack.add(_NOTHING)
    return pack
