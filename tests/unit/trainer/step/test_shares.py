"""Dealing packs to ranks: each once, equally many passes, one rank as ever."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.step.shares import counts, evened, shares
from services.trainer.step.trees import Pack, Row, micro_batches, pack_rows
from tests.unit.trainer.ground import rows

LENGTHS = st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=12)


def packs_of(lengths: list[int]) -> list[Pack]:
    """One of each length, and so of a group of its own."""
    made = [
        Row(group, (1,), (1,), tuple(range(2, 2 + length)), (-1.0,) * length, True)
        for group, length in enumerate(lengths)
    ]
    return pack_rows(made)


@given(lengths=LENGTHS, ranks=st.integers(min_value=1, max_value=5), limit=st.integers(min_value=1, max_value=200))
def test_every_pack_is_dealt_once_and_all_ranks_make_equally_many_passes(
    lengths: list[int], ranks: int, limit: int
) -> None:
    packs = packs_of(lengths)
    dealt = shares(packs, ranks, limit, 1024)
    assert len(dealt) == ranks
    assert len({len(share) for share in dealt}) == 1
    real = [pack for share in dealt for part in share if counts(part) for pack in part]
    assert sorted(map(id, real)) == sorted(map(id, packs))
    assert dealt == shares(packs, ranks, limit, 1024)


@given(lengths=LENGTHS, limit=st.integers(min_value=1, max_value=200))
def test_one_rank_gets_what_there_is_in_its_order(lengths: list[int], limit: int) -> None:
    packs = packs_of(lengths)
    assert shares(packs, 1, limit, 1024) == [micro_batches(packs, limit, 1024)]


@given(lengths=LENGTHS, ranks=st.integers(min_value=2, max_value=4))
def test_no_rank_has_more_to_do_than_another_by_more_than_one_pack(lengths: list[int], ranks: int) -> None:
    costs = [
        sum(len(pack.student.tokens) + len(pack.teacher.tokens) for part in share if counts(part) for pack in part)
        for share in shares(packs_of(lengths), ranks, 64, 1024)
    ]
    assert max(costs) - min(costs) <= 2 * (max(lengths) + 1)


def test_a_row_of_the_batch_always_counts() -> None:
    packs = pack_rows([row for row in rows(groups=1) if row.active])
    first, second = shares(packs, 2, 1024, 1024)
    assert [counts(part) for part in first] == [True]
    assert [counts(part) for part in second] == [False]
    assert [row.active for pack in second[0] for row in pack.rows] == [False]


def test_ranks_without_any_pass_get_none() -> None:
    assert evened([[], []]) == [[], []]
