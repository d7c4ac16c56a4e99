import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inspector.store.records import START, gap_id, just_before, order_of

numbers = st.integers(min_value=0, max_value=2**63 - 1)


@pytest.mark.parametrize(
    ("text", "order"),
    [("0", (0, 0)), ("5", (5, 0)), ("5-0", (5, 0)), ("1764000000000-12", (1764000000000, 12)), ("5-3.gap", (5, 3))],
)
def test_an_id_is_two_numbers(text: str, order: tuple[int, int]) -> None:
    assert order_of(text) == order


@pytest.mark.parametrize("text", ["", "-", "5-", "a-1", "5-1-2", "٥-1", "5 ", "1' OR 1=1", "9" * 19, "1-" + "9" * 20])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a stream id"):
        order_of(text)


@given(numbers, st.integers(min_value=1, max_value=2**63 - 1))
def test_just_before_is_the_largest_smaller_id(milliseconds: int, number: int) -> None:
    assert order_of(just_before(f"{milliseconds}-{number}")) == (milliseconds, number - 1)


def test_just_before_goes_to_the_end_of_the_millisecond_before() -> None:
    assert just_before("7-0") == f"6-{2**64 - 1}"
    assert just_before("0-0") == START


@given(numbers, numbers)
def test_a_gap_has_the_order_of_the_event_it_is_in_front_of(milliseconds: int, number: int) -> None:
    stream_id = f"{milliseconds}-{number}"
    assert order_of(gap_id(stream_id)) == order_of(stream_id)
