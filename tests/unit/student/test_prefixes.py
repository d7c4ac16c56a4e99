"""What of new prompts is computed and what copied: followed by hand, every row ends up with its own prompt."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.student.engines.prefixes import WORTH_A_COPY, WORTH_A_PASS, Ids, common, passes

HEAD = tuple(range(100, 140))
"""Long enough to be worth a pass."""


def follow(prompts: Sequence[Ids], there: Mapping[Ids, int]) -> tuple[dict[int, list[int]], int]:
    """Columns by row after all passes, and how many tokens went through the model."""
    columns = {row: list(ids) for ids, row in there.items()}
    first = len(there)
    computed = 0
    wanted: list[int] = []
    for parts in passes(prompts, range(first, first + len(prompts)), there):
        before = {row: list(ids) for row, ids in columns.items()}
        assert len({part.row for part in parts}) == len(parts)
        for part in parts:
            copied = before[part.source][: part.start] if part.start else []
            assert len(copied) == part.start and len(part.ids) == part.end - part.start
            columns[part.row] = [*copied, *part.ids]
            computed += len(part.ids)
            wanted += [part.prompt] if part.prompt is not None else []
            assert part.prompt is None or part.ids
    assert sorted(wanted) == list(range(len(prompts)))
    for place, prompt in enumerate(prompts):
        assert tuple(columns[first + place]) == prompt
    return columns, computed


ids = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
prompts_of_parts = st.lists(
    st.tuples(st.sampled_from([(), HEAD, HEAD[:20]]), st.sampled_from([(), HEAD]), ids), min_size=1
)


@given(prompts_of_parts.map(lambda rows: [a + b + c for a, b, c in rows]), st.integers(0, 3))
def test_every_row_gets_its_own_prompt(prompts: list[Ids], held: int) -> None:
    there = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts[:held]))}
    columns, computed = follow(prompts, there)
    assert computed <= sum(map(len, prompts))
    for prompt, row in there.items():
        assert tuple(columns[row]) == prompt


def test_what_a_group_begins_with_is_computed_once() -> None:
    one, other = (*HEAD, 1), (*HEAD, 2)
    found = passes([(*one, 7), (*one, 8, 8), (*other, 9)], range(3), {})
    assert [[(part.start, part.end) for part in parts] for parts in found] == [
        [(0, len(HEAD))],
        [(len(HEAD), len(HEAD) + 2), (len(HEAD), len(HEAD) + 3), (len(HEAD), len(HEAD) + 2)],
    ]


def test_parts_within_parts() -> None:
    groups = [(*HEAD, number, *HEAD, answer) for number in (1, 2) for answer in (3, 4, 5)]
    found = passes(groups, range(6), {})
    assert [len(parts) for parts in found] == [1, 2, 6]
    assert follow(groups, {})[1] == len(HEAD) + 2 * (1 + len(HEAD)) + 6


def test_rows_that_are_there_are_copied_from() -> None:
    assert follow([(*HEAD, 2)], {(*HEAD, 1): 0})[1] == 1
    # Of the same prompt the last token is computed: its logits are wanted.
    assert follow([(*HEAD, 1)], {(*HEAD, 1): 0})[1] == 1


def test_a_few_tokens_are_not_worth_it() -> None:
    few = HEAD[: WORTH_A_PASS - 1]
    assert [len(parts) for parts in passes([(*few, 1), (*few, 2)], range(2), {})] == [2]
    assert follow([(*HEAD[: WORTH_A_COPY - 1], 2)], {(*HEAD[: WORTH_A_COPY - 1], 1): 0})[1] == WORTH_A_COPY


def test_prompts_that_are_equal_or_go_on_from_each_other() -> None:
    assert follow([HEAD, HEAD, (*HEAD, 1)], {})[1] == (len(HEAD) - 1) + 1 + 1 + 2


def test_what_two_have_in_common() -> None:
    assert [common((1, 2), (1, 3)), common((1,), (1, 2)), common((), (1,))] == [1, 1, 0]
