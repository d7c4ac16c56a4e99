"""Whatever came, a refusal can be printed, logged and sent."""

import pytest
from pydantic import BaseModel, Field, ValidationError

from shared.errors import MAX_MESSAGE_CHARS, MAX_REASON_CHARS, ConfigError, presentable, reason, shown


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("expected a name,\n\tgot é 東", "expected a name,\n\tgot é 東"),
        ("/runs/\udcff", r"/runs/\udcff"),
        ("got \x1b[2J\r\0", r"got \x1b[2J\r\x00"),
        ("got \u202etxt.exe", r"got \u202etxt.exe"),
    ],
)
def test_a_message_is_text_that_leaves_a_terminal_as_it_is(message: str, said: str) -> None:
    assert str(ConfigError(message)) == said
    assert presentable(said) == said


def test_of_a_long_message_the_middle_is_left_out() -> None:
    said = str(ConfigError(f"expected a name, got {'x' * 10_000}; choose another"))
    assert MAX_MESSAGE_CHARS - 1 <= len(said) <= MAX_MESSAGE_CHARS
    assert said.startswith("expected a name, got xxx") and said.endswith("xxx; choose another")
    assert " […] " in said


def test_a_reason_is_one_line_and_cut() -> None:
    assert reason(ValueError("a\n  b")) == "a b"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 1000))) == MAX_REASON_CHARS + 1


class Pair(BaseModel):
    first: int
    second: int
    third: str = Field(max_length=2)
    fourth: bool


def test_of_fields_that_do_not_fit_the_first_are_told_without_what_came() -> None:
    with pytest.raises(ValidationError) as one:
        Pair.model_validate({"first": 1, "second": "a secret", "third": "ab", "fourth": True})
    assert reason(one.value) == "second: Input should be a valid integer, unable to parse string as an integer"
    with pytest.raises(ValidationError) as all_of_them:
        Pair.model_validate({})
    each = "Field required"
    assert reason(all_of_them.value) == f"first: {each}; second: {each}; third: {each}; and 1 more"
    with pytest.raises(ValidationError) as whole:
        Pair.model_validate_json("[")
    assert reason(whole.value).startswith("Invalid JSON: EOF")


def test_what_came_is_cut_and_says_how_long_it_was() -> None:
    assert shown("x") == "'x'" and shown([1]) == "[1]"
    assert shown("x" * 1000) == f"'{'x' * 60}'… (1,000 characters)"
