"""Prefix trees: the tokens that the rows of a group share are computed once.

The rollouts of a problem share its prompt, often their first words, sometimes everything. A tree holds each
distinct prefix once, and a token attends to its own prefix only, so that every row gets exactly the logits it
would get alone, and its gradient flows through what it shares. Not every architecture can do it: see `packing`.

What always holds: a parent stands before its children, and equal rows give equal trees, in equal order.

`Places` says where in a micro-batch's forward passes the tokens of its rows are predicted. Rows that share a prefix
share the place that predicts their next token. A divergence is computed once for every
pair of a student's and a teacher's place, and each row then reads its own tokens' values: sharing saves compute
and changes neither a row's weight nor its mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TREE_TOKENS = 1024
"""Beyond this many tokens a dense attention mask costs more than sharing saves; a longer row goes alone."""


@dataclass(frozen=True)
class Row:
    """One rollout as the loss sees it; token ids throughout. `active` False: no loss, no compute.

    advantage: of its reward within its group, for a policy gradient. problem_id and sample name it.
    foreign: the peer drew it, and `logprobs` have its mean log-prob of a token at each. weight: of a foreign one.
    """

    group: int
    prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    response: tuple[int, ...]
    logprobs: tuple[float, ...]
    active: bool
    advantage: float = 0.0
    problem_id: str = ""
    sample: int = 0
    foreign: bool = False
    weight: float = 1.0


@dataclass
class Tree:
    """Tokens in order of insertion; parents[i] is the index of the token before token i, -1 at the root."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    # By parent and token, from the first branch on. Long rows go alone, and most of a large step's are: a dictionary of
    # all their tokens would cost more than everything else that is done with them here.
    _children: dict[tuple[int, int], int] | None = None

    def insert(self, ids: Sequence[int]) -> list[int]:
        """The nodes of `ids`, new ones only where no earlier row has this prefix."""
        if self._children is None:
            shared = self._shared(ids)
            if shared in (len(self.tokens), len(ids)):
                self._lengthen(ids[shared:])
                return list(range(len(ids)))
            self._children = {each: node for node, each in enumerate(zip(self.parents, self.tokens, strict=True))}
        return self._branch(self._children, ids)

    def missing(self, ids: Sequence[int]) -> int:
        """How many nodes inserting `ids` would add."""
        if self._children is None:
            return len(ids) - self._shared(ids)
        parent = -1
        for depth, token in enumerate(ids):
            node = self._children.get((parent, token))
            if node is None:
                return len(ids) - depth
            parent = node
        return 0

    @property
    def is_chain(self) -> bool:
        return self._children is None

    def _shared(self, ids: Sequence[int]) -> int:
        """Of a chain: how many of `ids` it begins with."""
        both = zip(ids, self.tokens, strict=False)
        return next((at for at, (one, other) in enumerate(both) if one != other), min(len(ids), len(self.tokens)))

    def _lengthen(self, ids: Sequence[int]) -> None:
        """Of a chain: `ids` follow its last token."""
        before, after = len(self.tokens), len(self.tokens) + len(ids)
        self.tokens += ids
        self.parents += range(before - 1, after - 1)
        self.depths += range(before, after)

    def _branch(self, children: dict[tuple[int, int], int], ids: Sequence[int]) -> list[int]:
        path: list[int] = []
        parent = -1
        for depth, token in enumerate(ids):
            node = children.get((parent, token))
            if node is None:
                node = len(self.tokens)
                children[parent, token] = node
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            path.append(node)
            parent = node
        return path


@dataclass
class Pack:
    """Rows of one group that go through the model as one tree, once for the student and once for the teacher.

    student_nodes[r][t], teacher_nodes[r][t]: the node whose logits predict token t of row r's response.
    """

    rows: list[Row] = field(default_factory=list)
    student: Tree = field(default_factory=Tree)
    teacher: Tree = field(default_factory=Tree)
    student_nodes: list[list[int]] = field(default_factory=list)
    teacher_nodes: list[list[int]] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.student_nodes.append(_predictors(self.student, row.prompt, row.response))
        self.teacher_nodes.append(_predictors(self.teacher, row.teacher_prompt, row.response))

    def fits(self, row: Row, limit_tokens: int) -> bool:
        """Whether the row can join without a tree growing beyond the limit; an empty pack takes any row."""
        # Even one that is too long: it must go somewhere, and goes alone.
        if not self.rows:
            return True
        student = len(self.student.tokens) + self.student.missing(row.prompt + row.response)
        teacher = len(self.teacher.tokens) + self.teacher.missing(row.teacher_prompt + row.response)
        return self.rows[0].group == row.group and max(student, teacher) <= limit_tokens

    @property
    def tokens(self) -> int:
        """Tokens of the larger tree."""
        return max(len(self.student.tokens), len(self.teacher.tokens))


def pack_rows(rows: Sequence[Row], limit_tokens: int = TREE_TOKENS) -> list[Pack]:
    """Rows of one group side by side, in as few packs as the limit allows; never two groups in one, and one row in
    each where the limit is 0."""
    packs: list[Pack] = []
    for row in rows:
        if not packs or not packs[-1].fits(row, limit_tokens):
            packs.append(Pack())
        packs[-1].add(row)
    return packs


def micro_batches(packs: Sequence[Pack], limit_tokens: int, tree_tokens: int = TREE_TOKENS) -> list[list[Pack]]:
    """Packs of similar length together, at most `limit_tokens` with padding (a longer pack goes alone).

    Trees and rows too long for one (`tree_tokens`) never share a micro-batch, since long rows go without a dense mask.
    """
    batches: list[list[Pack]] = []
    # Longest first, so the first pack of a micro-batch is its padded length. The sort is stable: ties keep their order.
    for pack in sorted(packs, key=lambda pack: -pack.tokens):
        last = batches[-1] if batches else None
        if (
            last is None
            or (len(last) + 1) * last[0].tokens > limit_tokens
            or (last[0].tokens > tree_tokens) != (pack.tokens > tree_tokens)
        ):
            batches.append([pack])
        else:
            last.append(pack)
    return batches


@dataclass(frozen=True)
class TreeTensors:
    """Trees of one forward pass, padded on the right: ids and positions [G, N]; attends [G, N, N], True where
    row token i sees token j, or None where every tree is a chain (plain causal attention is the same)."""

    ids: Tensor
    positions: Tensor
    attends: Tensor | None


def tree_tensors(trees: Sequence[Tree]) -> TreeTensors:
    longest = max(len(tree.tokens) for tree in trees)
    ids = torch.zeros(len(trees), longest, dtype=torch.long)
    # padding counts on, too: a model takes a position that starts again for a second sequence
    positions = torch.arange(longest).repeat(len(trees), 1)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        if not tree.is_chain:
            positions[row, : len(tree.tokens)] = torch.tensor(tree.depths)
    if all(tree.is_chain for tree in trees):
        return TreeTensors(ids, positions, None)
    # Each token sees itself, padding too, so that no line of the mask is empty.
    attends = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        for node, parent in enumerate(tree.parents):
            # Parents come first, so the parent's line is complete by now.
            if parent >= 0:
                attends[row, node] |= attends[row, parent]
    return TreeTensors(ids, positions, attends)


def _predictors(tree: Tree, prompt: tuple[int, ...], response: tuple[int, ...]) -> list[int]:
    # The last prompt token predicts the first response token; the last response token predicts nothing.
    return tree.insert(prompt + response)[len(prompt) - 1 : -1]


Place = tuple[int, int]
"""Tree and node."""


@dataclass(frozen=True)
class Places:
    """student [P_s] and teacher [P_q]: distinct places. pairs [P, 2]: indices into both, distinct and sorted.

    By row and response token, [R, T]: pair_index, student_index into the above; targets, the sampled ids;
    rollout_logprobs, the engine's; mask, False where padded.
    """

    student: list[Place]
    teacher: list[Place]
    pairs: Tensor
    pair_index: Tensor
    student_index: Tensor
    targets: Tensor
    rollout_logprobs: Tensor
    mask: Tensor


def places_of(packs: Sequence[Pack], device: torch.device) -> Places:
    """Rows in the order of their packs."""
    rows = [row for pack in packs for row in pack.rows]
    shape = (len(rows), max(len(row.response) for row in rows))
    pair_index, student_index, targets = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    rollout_logprobs, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    student: dict[Place, int] = {}
    teacher: dict[Place, int] = {}
    known: dict[Place, int] = {}
    at = 0
    for tree, pack in enumerate(packs):
        for row, student_nodes, teacher_nodes in zip(pack.rows, pack.student_nodes, pack.teacher_nodes, strict=True):
            length = len(row.response)
            of_student = [student.setdefault((tree, node), len(student)) for node in student_nodes]
            of_teacher = [teacher.setdefault((tree, node), len(teacher)) for node in teacher_nodes]
            both = zip(of_student, of_teacher, strict=True)
            pair_index[at, :length] = torch.tensor([known.setdefault(pair, len(known)) for pair in both])
            student_index[at, :length] = torch.tensor(of_student)
            targets[at, :length] = torch.tensor(row.response)
            rollout_logprobs[at, :length] = torch.tensor(row.logprobs)
            mask[at, :length] = True
            at += 1
    # Sorted by the student's place: `distil` makes the logits of a run of equal ones once.
    pairs = sorted(known)
    position = torch.empty(len(pairs), dtype=torch.long)
    position[[known[pair] for pair in pairs]] = torch.arange(len(pairs))
    return Places(
        student=list(student),
        teacher=list(teacher),
        pairs=torch.tensor(pairs, device=device),
        pair_index=position[pair_index].to(device),
        student_index=student_index.to(device),
        targets=targets.to(device),
        rollout_logprobs=rollout_logprobs.to(device),
        mask=mask.to(device),
    )
