"""Rows on ranks: as torch.chunk cuts them, and found again among the parts of any number of ranks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.model.rowshares import own_rows

COUNTS = st.integers(min_value=1, max_value=6)


@given(rows=st.integers(min_value=0, max_value=17), size=COUNTS)
def test_they_are_those_of_torch_s_chunks(rows: int, size: int) -> None:
    whole = torch.arange(3 * rows).view(rows, 3)
    chunks = torch.chunk(whole, size) if rows else []
    for rank in range(size):
        found = own_rows([whole], rank, size)
        assert found.tolist() == (chunks[rank].tolist() if rank < len(chunks) else [])
        assert found.shape[1:] == (3,)


@given(rows=st.integers(min_value=0, max_value=17), before=COUNTS, after=COUNTS)
def test_another_number_of_ranks_finds_the_same_rows(rows: int, before: int, after: int) -> None:
    whole = torch.arange(2 * rows).view(rows, 2)
    parts = [own_rows([whole], rank, before) for rank in range(before)]
    for rank in range(after):
        assert torch.equal(own_rows(parts, rank, after), own_rows([whole], rank, after))


def test_one_number_is_the_same_everywhere_and_one_part_is_not_copied() -> None:
    number, whole = torch.tensor(3.0), torch.ones(4, 2)
    assert own_rows([number, number], 1, 2) is number
    assert own_rows([whole], 0, 1) is whole
    assert own_rows([whole], 1, 2).data_ptr() == whole[2:].data_ptr()
