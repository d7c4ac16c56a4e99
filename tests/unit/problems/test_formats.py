"""The registry of formats."""

import pytest

from shared.errors import ConfigError
from shared.problems.formats import format_named, format_names


def test_every_name_gives_the_format_of_that_name() -> None:
    assert format_names() == ("integer", "mcq")
    assert [format_named(name).name for name in format_names()] == list(format_names())


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match="integer, mcq, got 'intger'; did you mean 'integer'"):
        format_named("intger")


def test_a_far_name_brings_no_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        format_named("zzz")
    assert "did you mean" not in str(caught.value)
