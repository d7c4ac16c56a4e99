"""How rows of a tensor are shared out over ranks, and found again among the shares of another number of them.

Rank r of n has rows r·⌈R/n⌉ to (r+1)·⌈R/n⌉ of R, as torch.chunk cuts and FSDP2 shards: the last ranks may have fewer,
or none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def own_rows(parts: Sequence[Tensor], rank: int, size: int) -> Tensor:
    """The rows of rank `rank` of `size`, of the tensor whose rows are in `parts` one after the other.

    Copied only where they lie in more than one. A number without rows (0-dim) is the same in all parts, on all ranks.
    """
    if parts[0].dim() == 0 or (size == 1 and len(parts) == 1):
        return parts[0]
    share = -(-sum(map(len, parts)) // size)
    first, last = rank * share, (rank + 1) * share
    found: list[Tensor] = []
    for part in parts:
        found.append(part[max(first, 0) : max(last, 0)])
        first, last = first - len(part), last - len(part)
    filled = [each for each in found if len(each)]
    return torch.cat(filled) if len(filled) > 1 else (filled or found)[0]
