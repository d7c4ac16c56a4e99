"""What is computed of new prompts, and what is copied: tokens that several begin with go through the model once.

Pure. What always holds: after its passes each prompt's row has all of its columns, and its last token is in a pass of
its own, whose logits are wanted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]

WORTH_A_PASS = 32
"""Tokens that a shared part must save: a pass of its own takes as long as so many in a larger one (on a CPU)."""

WORTH_A_COPY = 8
"""Columns of a row that is there already."""


@dataclass(frozen=True)
class PromptPart:
    """Columns `start` to `end` of a prompt, computed in row `row`; those before are first copied from `source`.

    prompt: whose logits come out, its place among the prompts; None where it is a part that several begin with.
    """

    row: int
    source: int
    start: int
    end: int
    ids: Ids
    prompt: int | None


def passes(prompts: Sequence[Ids], rows: Sequence[int], there: Mapping[Ids, int]) -> list[list[PromptPart]]:
    """The parts of `prompts`, in the order in which they must be computed; those of one list depend on none of it.

    rows: where each goes. there: rows that hold a prompt, by the prompt.
    """
    order = sorted(range(len(prompts)), key=lambda number: prompts[number])
    found: list[list[PromptPart]] = []
    for depth, part in _Tree(prompts, rows, there).parts(order, rows[order[0]], 0, 0):
        found.extend([] for _ in range(len(found), depth + 1))
        found[depth].append(part)
    return [parts for parts in found if parts]


@dataclass(frozen=True)
class _Tree:
    prompts: Sequence[Ids]
    rows: Sequence[int]
    there: Mapping[Ids, int]

    def parts(self, order: Sequence[int], source: int, start: int, depth: int) -> Iterator[tuple[int, PromptPart]]:
        """Of prompts in alphabetical order that have columns before `start` in common, which row `source` holds."""
        first = order[0]
        row = self.rows[first]
        if len(order) == 1:
            yield depth, self._part(row, source, start, self.prompts[first], first)
            return
        # In alphabetical order the first and the last have in common what all have. One token is each prompt's own.
        end = min(common(self.prompts[first], self.prompts[order[-1]]), *(len(self.prompts[i]) - 1 for i in order))
        if (end - start) * (len(order) - 1) >= WORTH_A_PASS:
            yield depth, self._part(row, source, start, self.prompts[first][:end], None)
            source, start, depth = row, end, depth + 1
        for branch in self._branches(order, end):
            yield from self.parts(branch, source, start, depth)

    def _branches(self, order: Sequence[int], at: int) -> Iterator[Sequence[int]]:
        """Those that have the token at `at` in common, together; each alone where some end with it."""
        alone = any(len(self.prompts[number]) == at + 1 for number in order)
        begin = 0
        for place in range(1, len(order) + 1):
            if place == len(order) or alone or self.prompts[order[place]][at] != self.prompts[order[begin]][at]:
                yield order[begin:place]
                begin = place

    def _part(self, row: int, source: int, start: int, ids: Ids, prompt: int | None) -> PromptPart:
        """From the row that has most of it, where that is one which is there already."""
        most = len(ids) - (prompt is not None)
        shared, held = max(
            ((min(common(ids, other), most), held) for other, held in self.there.items()), default=(0, 0)
        )
        if shared >= start + WORTH_A_COPY:
            source, start = held, shared
        return PromptPart(row, source, start, len(ids), ids[start:], prompt)


def common(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    for place, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return place
    return min(len(one), len(other))
