"""Where in a micro-batch's forward passes the tokens of its rows are predicted.

Rows that share a prefix share the place that predicts their next token. A divergence is computed once for every
pair of a student's and a teacher's place, and each row then reads its own tokens' values: sharing saves compute
and changes neither a row's weight nor its mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.step.trees import Pack

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
