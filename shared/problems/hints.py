"""What a tutor should say of a generated problem, and what of it a feedback does say. Pure.

A formula is named by any expression that is worth the same whatever its names stand for, so `beams * 700` is
`700 * beams`; numbers by any expression of the same integers with the right result. Words around them do not count.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from shared.config.settings import RunSettings
from shared.problems.generated import DrawnProblem, draw_partitions
from shared.problems.kinds import Drawn, constants_in, evaluate, names_in, substitute
from shared.problems.loading import GENERATED
from shared.problems.problem import ProblemFormat
from shared.problems.specialising import feedback_text

# Far apart and without common factors: two formulas that agree on both are one and the same.
_TRIALS = ((7, 101, 1009), (1013, 11, 103))

_SENTENCE = r"(?:^|[.!?>])\s*(?:(?:that|this|it|the answer|your answer)\s+(?:is|was)\s+)?"
_CALLED_WRONG = re.compile(rf"{_SENTENCE}(?:wrong|incorrect|false|not (?:right|correct))\b", re.IGNORECASE)
_CALLED_RIGHT = re.compile(rf"{_SENTENCE}(?:right|correct)\b(?! the\b)", re.IGNORECASE)


def drawings(settings: RunSettings) -> Mapping[str, DrawnProblem]:
    """The drawings of a run's training problems by id; none where they are not generated."""
    if settings.problems.source != GENERATED:
        return {}
    drawn = draw_partitions(settings.run.seed, settings.domains, kinds=settings.problems.kinds)
    return {item.problem.id: item for item in drawn["train"]}


def right_hint(item: DrawnProblem, format_: ProblemFormat) -> str | None:
    """The feedback that names the right formula and numbers, as a tutee gets to see it."""
    raw = feedback_text(item, item.drawn.kind.formula, item.drawn.numbers)
    return format_.judge_feedback(raw, item.problem).delivered


def names_formula(text: str, drawn: Drawn) -> bool:
    """Whether the text holds the kind's formula."""
    formula = drawn.kind.formula
    trials = [dict(zip(names_in(formula), values, strict=False)) for values in _TRIALS]
    wanted = [evaluate(substitute(formula, values)) for values in trials]
    return any(
        set(names_in(found)) == set(names_in(formula))
        and Counter(constants_in(found)) == Counter(constants_in(formula))
        and [evaluate(substitute(found, values)) for values in trials] == wanted
        for found in _expressions(text, drawn)
    )


def names_numbers(text: str, drawn: Drawn) -> bool:
    """Whether the text holds the calculation with the problem's numbers."""
    wanted = Counter(constants_in(drawn.numbers))
    return any(
        not names_in(found) and Counter(constants_in(found)) == wanted and evaluate(found) == evaluate(drawn.numbers)
        for found in _expressions(text, drawn)
    )


def calls_wrong(text: str) -> bool | None:
    """Whether a feedback says in so many words that the answer is wrong, or right; None where it says neither."""
    wrong, right = _CALLED_WRONG.search(text), _CALLED_RIGHT.search(text)
    if wrong is None and right is None:
        return None
    return right is None or (wrong is not None and wrong.start() < right.start())


def _expressions(text: str, drawn: Drawn) -> Iterator[str]:
    """Whole expressions of the kind's names and of integers; one that goes on with something else is none."""
    # Longest first: a name may begin with another one.
    names = sorted(names_in(drawn.kind.formula), key=len, reverse=True)
    operand = rf"(?:{'|'.join(map(re.escape, names))}|0|[1-9][0-9]{{0,8}})"
    chain = re.compile(rf"(?<![\w.])(?<![-+*/] ){operand}(?: ?[-+*/] ?{operand})+(?![\w]|\.[0-9]| ?[-+*/])")
    # A division by zero has no value to compare.
    yield from (found for found in chain.findall(text) if not re.search(r"/ ?0+\b", found))
