"""The problem formats there are, by name."""

import difflib
from typing import Literal

from shared.errors import ConfigError
from shared.problems.integer import IntegerFormat
from shared.problems.mcq import McqFormat, NaiveMcqFormat
from shared.problems.problem import ProblemFormat

FeedbackPrompt = Literal["anchored", "naive"]

_FORMATS: dict[str, ProblemFormat] = {form.name: form for form in (IntegerFormat(), McqFormat())}
_NAIVE: dict[str, ProblemFormat] = {form.name: form for form in (NaiveMcqFormat(),)}


def format_names() -> tuple[str, ...]:
    """The names `format_named` knows."""
    return tuple(sorted(_FORMATS))


def format_named(name: str, prompt: FeedbackPrompt = "anchored") -> ProblemFormat:
    """The format of that name, with that prompt for feedback; `ConfigError` naming the nearest one if there is none."""
    known = _FORMATS if prompt == "anchored" else _NAIVE
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    what = "a problem format" if prompt == "anchored" else f"a problem format with a {prompt} feedback prompt"
    raise ConfigError(f"expected {what} of {', '.join(sorted(known))}, got {name!r}{hint}")
