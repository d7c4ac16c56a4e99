"""Prefix trees: sharing changes nothing that a row sees."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.model.model import StudentModel
from services.trainer.model.trained import TrainedAdapter
from services.trainer.step.trees import TREE_TOKENS, Row, Tree, micro_batches, pack_rows, tree_tensors
from shared.modeling.loading import load_model
from tests.unit.trainer.ground import SPEC, rows

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


@given(SEQUENCES)
def test_a_path_spells_its_sequence_and_prefixes_are_stored_once(sequences: list[list[int]]) -> None:
    tree = Tree()
    for ids in sequences:
        new = tree.missing(ids)
        before = len(tree.tokens)
        path = tree.insert(ids)
        assert [tree.tokens[node] for node in path] == ids
        assert [tree.parents[node] for node in path] == [-1, *path[:-1]]
        assert len(tree.tokens) - before == new
    assert len(tree.tokens) == len({tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))})
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert tree.is_chain == all(parent == node - 1 for node, parent in enumerate(tree.parents))
    assert all(tree.depths[node] == depth for ids in sequences for depth, node in enumerate(tree.insert(ids)))


@given(SEQUENCES)
def test_a_token_attends_to_its_own_prefix_only(sequences: list[list[int]]) -> None:
    tree = Tree()
    paths = [tree.insert(ids) for ids in sequences]
    attends = tree_tensors([tree]).attends
    if attends is None:
        assert tree.is_chain
        return
    for path in paths:
        for depth, node in enumerate(path):
            assert attends[0, node].nonzero().flatten().tolist() == sorted(path[: depth + 1])


@pytest.mark.parametrize("grad", [False, True])
def test_shared_logits_are_those_of_each_row_alone(tiny_dir: Path, grad: bool) -> None:
    model = StudentModel(TrainedAdapter(load_model(tiny_dir, "float32"), SPEC, seed=1))
    packs = pack_rows(rows(groups=2))
    with torch.set_grad_enabled(grad):
        for tree, pack in enumerate(packs):
            for row, nodes in zip(pack.rows, pack.student_nodes, strict=True):
                shared = model.logits([p.student for p in packs], [(tree, node) for node in nodes])
                alone = model.network(torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
                torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)


def test_rows_of_a_group_share_a_pack_and_groups_never_do() -> None:
    packs = pack_rows(rows(groups=3))
    assert [{row.group for row in pack.rows} for pack in packs] == [{0}, {1}, {2}]


def test_a_lower_limit_makes_more_packs_with_the_same_rows() -> None:
    made = rows(groups=2, samples=6)
    packs = pack_rows(made, 20)
    assert len(packs) > len(pack_rows(made))
    assert [row for pack in packs for row in pack.rows] == made
    assert all(pack.tokens <= 20 or len(pack.rows) == 1 for pack in packs)


def test_a_tree_stops_growing_at_its_limit() -> None:
    long = [
        Row(0, (0,), (0,), tuple([sample] * (TREE_TOKENS // 2)), (-1.0,) * (TREE_TOKENS // 2), True)
        for sample in range(1, 4)
    ]
    packs = pack_rows(long)
    assert [len(pack.rows) for pack in packs] == [1, 1, 1]
    assert all(pack.student.is_chain for pack in packs)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 200))
def test_micro_batches_hold_every_pack_once_within_the_limit(lengths: list[int], limit: int) -> None:
    packs = pack_rows([Row(g, (0,), (0,), tuple(range(n)), (-1.0,) * n, True) for g, n in enumerate(lengths)])
    parts = micro_batches(packs, limit)
    assert sorted(id(pack) for part in parts for pack in part) == sorted(map(id, packs))
    for part in parts:
        assert len(part) == 1 or len(part) * max(pack.tokens for pack in part) <= limit


def test_long_rows_never_get_a_dense_mask() -> None:
    row = Row(1, (0,), (0,), (1,) * (TREE_TOKENS + 5), (-1.0,) * (TREE_TOKENS + 5), True)
    parts = micro_batches(pack_rows([*rows(groups=1), row]), 10**6)
    assert [len(part) for part in parts] == [1, 1]
    assert tree_tensors([pack.student for pack in parts[0]]).attends is None
