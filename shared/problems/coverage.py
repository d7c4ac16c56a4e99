"""What is to be told of a problem set that can be used all the same: answers that contradict each other or
themselves, and languages that the rules which take answers out of feedback do not know.

They know the forms of `shared/method/languages.py`. In any other language a tutor's "the answer is B" reaches the
tutee, and nothing else would tell.
"""

import random
from collections import Counter
from collections.abc import Sequence

from shared.errors import shown
from shared.method.languages import LANGUAGES, language_of
from shared.problems.leaks import same_options
from shared.problems.problem import ProblemSet

LEAST_SHARE = 0.05
"""Of the questions: a stray quotation is no language of the set."""

MANY_WORDS = 50
"""Distinct words that would hold some of a known language's, were it one."""

LOOKED_AT = 2000
"""Questions at most: a large set is looked at as soon."""

UNKNOWN = "a language that is not known"

_COVERED = frozenset(language.name for language in LANGUAGES)


def told_of(problems: ProblemSet) -> list[str]:
    """A sentence each, without its full stop, for who begins something with them."""
    looks = (contradictions, doubled_options, uncovered_languages)
    return [told for look in looks if (told := look(problems)) is not None]


def contradictions(problems: ProblemSet) -> str | None:
    """A sentence about questions that are asked again with another answer; None if there are none."""
    if not problems.contradicted:
        return None
    first, again = map(shown, problems.contradicted[0])
    return (
        "problems that ask what another one of their partition asks, and have another answer: "
        f"{len(problems.contradicted)}, first {again} as {first}; whoever is right on one is wrong on the other, keep "
        "the one with the right answer"
    )


def doubled_options(problems: ProblemSet) -> str | None:
    """A sentence about questions whose right option stands there under another letter, too; None if there are none."""
    doubled = [each.id for each in problems.all_problems() if len(same_options(each.question, each.answer)) > 1]
    if not doubled:
        return None
    return (
        f"problems whose right option stands there under another letter, too: {len(doubled)}, first "
        f"{shown(doubled[0])}; whoever answers with that one is graded wrong, give it another text, or leave the "
        "problem out"
    )


def uncovered_languages(problems: ProblemSet) -> str | None:
    """A sentence about the languages of the questions that the rules do not know; None if they know all of them."""
    asked = [problem.question for problem in problems.all_problems()]
    every = len(asked)
    if every > LOOKED_AT:
        # Drawn, as languages may alternate: every n-th question may be in some of them alone.
        asked = random.Random(0).sample(asked, LOOKED_AT)
    drawn = f", drawn out of {every}," if every > LOOKED_AT else ""
    told = [(question, language_of(question)) for question in asked]
    found = Counter(name for _, name in told if name is not None)
    short = [question for question, name in told if name is None]
    # Too short to tell their language one by one, so they are looked at together.
    found[_language_of_all(short)] += len(short)
    unknown = [
        f"{count} of {len(asked)} questions{drawn} are in {name}"
        for name, count in found.most_common()
        if name not in _COVERED and count >= max(1, LEAST_SHARE * len(asked))
    ]
    if not unknown:
        return None
    return (
        f"{' and '.join(unknown)}, of which the sanitizer knows no forms: feedback that names the answer in words is "
        f"delivered. It knows {', '.join(language.name for language in LANGUAGES)}"
    )


def _language_of_all(questions: Sequence[str]) -> str:
    """Of questions of which none tells its language alone; formulas, or some words, are in the first one."""
    text = "\n".join(questions)
    name = language_of(text)
    if name is None and len(set(text.split())) >= MANY_WORDS:
        return UNKNOWN
    return name or LANGUAGES[0].name
