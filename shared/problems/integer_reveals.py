"""Taking the integer answer out of a feedback, while formulas and given numbers stay.

Removed with any integer: `answer is 11`, `= 11` after arithmetic (`14 - 3 = 11`), `\\boxed{11}`, `#### 11`,
`<answer>11</answer>`, `<<14-3=11>>11`.
Removed where 11 is the answer, in whatever digits, groups, markup or words (`１１`, `١١`, `11.0`, `**11**`, `eleven`,
`11/1`, `$11`, `11^\\circ`): what joins it (`= 11`, `≈ 11`, `gives 11`, `has 11 left`, `it's 11`), what calls it right
(`11 is the answer`, `11 = pOH`, `not 12 but 11`), and a sentence that is nothing else; the same in the languages of
`method/languages.py`. An integer that an operator follows begins a formula and stays: `pOH = 14 - pH`. So does one that
English words join as the question itself does: `Tom gave 11 eggs to Ann`. What always holds: characters are only
removed, never changed or reordered.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from shared.method.languages import LANGUAGES, Language, loose
from shared.method.letters import MARKUP_CLOSES, MARKUP_OPENS
from shared.method.reveals import (
    closing_words,
    edge_of_word,
    held_right,
    named_answer,
    named_correct,
    only_one,
    pointed_at,
)
from shared.method.sanitizing import with_its_stop
from shared.method.scripts import script_of
from shared.problems.integers import CURRENCY, INTEGER_ENDS, INTEGER_TEXT, number_shadow, same_integer
from shared.problems.number_words import spelled_spans

_SPELLED = "\ue000"
"""In the shadow: a letter of the answer in words. Private use, so that no rule takes it for a letter."""

_OTHER = [each for each in LANGUAGES if each.answer]
_STOP = rf"(?:[.,;:!?)*_$}}\]\"'”’。、।؟،]|{MARKUP_CLOSES}|\Z)"
_TAILS = "|".join(each.tail for each in _OTHER if each.tail)
# The word for a number is a word of its own more often than digits are: `is one of them`, `are two ways out of it`.
_WORD_ENDS = (
    rf"(?=\s{{0,2}}{_STOP}|(?i:{_TAILS})\s{{0,2}}{_STOP}|\s?[^\s\d.,;:!?)。、।؟،]{{1,14}}\s{{0,2}}{_STOP}"
    r"|\s(?i:because|since|so|as|is|are|was|must|should|would|fits|works)\b)"
)
_ENDS = re.compile(rf"(?i:{_TAILS})\s{{0,2}}{_STOP}|\s{{0,2}}{_STOP}")
_NUMBER = rf"(?P<number>{INTEGER_TEXT}{INTEGER_ENDS}|{_SPELLED}+{_WORD_ENDS})"
_OPERATOR = (
    r"[-−+*/×·÷^±∓⋅∗∙√π]|\((?!\s?(?:[^\W\d_]{2,20}|[A-Z])\s?\))|(?:plus|minus|times|divided|over|x)\b"
    r"|\\(?:times|cdot|div|pm|mp|pi|sqrt)\b"
)
_IN_LATEX = (
    r"\s?(?:\\[,;: ]|~)?\s?\\(?:text|math)[a-z]{0,2}\s?\{[^{}]{0,30}\}(?:\s?\^\s?(?:\{[^{}]{1,8}\}|-?\d(?!\d)))?"
)
_UNIT = rf"(?:\s?[A-Za-zΩ°%][\w/^]*(?=\s*(?:[.,;:!?)。]|$))|\s?\([^\W\d_]{{1,20}}\)|{_IN_LATEX})?"
# `12/1` and `12 + 0` are the number once more.
_NEUTRAL = r"(?:(?:\s?(?:[/÷*×·^]|\*\*)\s?1|\s?[-−+]\s?0)(?![\d^]|[.,]\d)){0,2}+"
_DEGREES = r"(?:\s?\^\s?(?:\\circ\b|\{\s?\\circ\s?\}))?"
_PLAIN = rf"(?:{CURRENCY}\s?)?{_NUMBER}{_NEUTRAL}{_DEGREES}(?!\s*(?:{_OPERATOR})|[A-Za-z]\s*[-−+*/]){_UNIT}"
_MARKED_NUMBER = _NUMBER.replace("number", "marked")
_MARK_OPENS = rf"(?:\*{{1,3}}|__|`|\$|{CURRENCY}|[(\[\"“'‘«「]|{MARKUP_OPENS})\s?"
_MARK_CLOSES = rf"(?:\s?[*_`$)\]\"”'’»」}}]|{MARKUP_CLOSES})"
_MARKED = (
    rf"(?:{_MARK_OPENS}){{1,4}}{_MARKED_NUMBER}{_NEUTRAL}{_DEGREES}(?:\s?[A-Za-z%°Ω]{{1,12}}|{_IN_LATEX})?"
    rf"{_MARK_CLOSES}{{1,6}}+(?!\s*(?:[-−+/×·÷^]|\\(?:times|cdot|div|pm|mp)\b))"
)
# Marked ones first: of `$12$` the one of a currency would leave a sign behind.
_RESULT = rf"(?:{_MARKED}|{_PLAIN})"
_GAP = r"\s{1,8}"

_ADVERBS = (
    r"(?:about|around|approximately|roughly|nearly|exactly|precisely|only|just|simply|then|therefore|thus|hence|indeed"
    r"|actually|clearly|now|in\sfact|of\scourse|instead)"
)
_ADVERB = rf"(?:{_ADVERBS}{_GAP}){{0,2}}"
_ASIDE = rf"(?:\s?,\s{{1,2}}{_ADVERBS}\b\s?,?)?"
_BE = rf"(?:{_ADVERBS}{_GAP})?(?:be|have{_GAP}been)"
_BEING = (
    rf"(?:['’]s|(?:{_ADVERBS}{_GAP})?(?:is|was|(?:should|must|would|will){_GAP}{_BE}"
    rf"|(?:should|must|would)['’]ve{_GAP}been|equals|comes to))"
)
_NOUN = rf"(?:(?:the|an?){_GAP})?(?:(?:number|value|integer|total|result|answer|sum){_GAP}(?:of{_GAP})?)?"
_SO = rf"(?:(?:so|thus|hence|therefore|then)\b,?{_GAP})?"
_MODAL = rf"(?:(?:must|should|would|will|can|has\sto|have\sto|ought\sto){_GAP}(?:{_ADVERBS}{_GAP})?)?"
_IT = rf"(?:{_SO}(?:it|that|this|which|you|we){_GAP}{_MODAL})?"
_JOINS = (
    r"(?:(?:(?:is|are|be)\s)?equal(?:s|l?ed|l?ing)?(?:\sto)?|g(?:iv(?:es?|ing)|ave)(?:\s(?:you|us|me))?|ma(?:k(?:es?|ing)|de)"
    r"|yield(?:s|ed|ing)?|g[eo]t(?:s|ting|ten)?|obtain(?:s|ed|ing)?|bec(?:omes?|ame)|c(?:om(?:es?|ing)|ame)\s(?:out\s)?(?:to|as|at)"
    r"|amount(?:s|ed)?\sto|total(?:s|l?ed)?|result(?:s|ed|ing)?\sin|le(?:ad(?:s|ing)?|d)\sto|i\.e\.,?"
    r"|(?:turn|work)(?:s|ed)?\sout\s(?:to\sbe|to|as|at)|(?:evaluate|simplifie|reduce)[sd]\sto|le(?:av(?:es?|ing)|ft)(?:\s(?:her|him|them|you|us))?"
    r"|f(?:ind(?:s|ing)?|ound)|reach(?:es|ed|ing)?|arriv(?:es?|ed|ing)\sat|end(?:s|ed|ing)?(?:\sup)?\s(?:with|at|as)|remains?"
    r"|expect(?:s|ed|ing)?|is|are|was|were|be|ha(?:ve|s|d)(?:\sbeen)?)"
)
_CALLED = (
    rf"(?:(?:is|are|was|(?:must|should|would|has\sto|will){_GAP}{_BE})\b|['’]s\b)"
    rf"{_GAP}{_ADVERB}(?:(?:the|your|our|its){_GAP})?(?:(?:correct|right|final|true|only|actual|exact|expected){_GAP})"
    r"{0,2}(?:answer|result|solution|correct|right|(?<=correct\s)(?:value|one)|(?<=right\s)(?:value|one))"
    r"(?=\s{0,2}(?:[.,;:!?)*]|\Z)|\s(?:because|since|here|as|and|for|to|of)\b)"
)
# To the left of something is a place.
_LEFT = (
    r"(?:\s(?!(?:to|the|on|from|of)\b)[^\W\d_]{2,15}){0,2}\s(?:left(?:\sover)?|remain(?:s|ing)?)"
    rf"(?=\s{{0,2}}{_STOP}|\s(?:because|since|so|and|after|for)\b)"
)
_STARTS = r"(?<![A-Za-z0-9_.,^'’\])])(?<![0-9]\s)"
_LEAD = rf"(?:\b(?:so|thus|hence|therefore|only)\b,?{_GAP})?(?:\bthe\s(?:value|number|integer){_GAP})?"
_LINE_START = r"(?:\A|(?<=[.!?:。؟]\s)|(?<=[\n。]))"

# Longer than anything that _OPERAND matches, which ends where the search does: over the whole text before it the search
# would take quadratic time.
_LOOKED_BACK = 20
_OPERAND = re.compile(
    r"(?:[+*/×·÷^±⋅∗∙=≈<>√]|[\d)]\s?[-−–]|\b(?:plus|minus|times|over|by|x)|\\(?:times|cdot|div|pm))\s{0,3}\Z",
    re.IGNORECASE,
)

_WORD = re.compile(rf"{_SPELLED}+|(?<!\w){INTEGER_TEXT}{INTEGER_ENDS}|\d+|[^\W\d_]+")
_WORD_BEHIND = re.compile(r"[\s*_$]{1,4}([^\W\d_]{1,30})")
_HAS = frozenset({"has", "have", "had"})
_HANDED = frozenset({"gave", "left"})
_IS = frozenset({"is", "are", "was", "were", "be", "equal", "equals", "equalled"})


def _claims_in(language: Language) -> str:
    return rf"\s?{named_answer(language)}{_RESULT}{closing_words(language)}[.!。।]?"


def _sayings_in(language: Language) -> str:
    joins = rf"{edge_of_word(language)}(?i:{loose(language.equals)})\s{{0,2}}"
    return rf"\s?(?:{named_correct(language)}|{pointed_at(language)}|{joins}){_RESULT}{closing_words(language)}"


def _called_right_in(language: Language) -> Iterator[str]:
    right = rf"{held_right(language)}(?=\s{{0,2}}{_STOP}|\s)"
    comes_last = rf"|\s{{0,2}}{loose(language.behind)}(?=\s{{0,2}}{_STOP})" if language.behind else ""
    yield rf"\s?{_STARTS}{_RESULT}(?:{right}{comes_last})[.!。।]?"
    before, behind = only_one(language)
    if before:
        yield rf"\s?{before}{_RESULT}{behind}[.!。।]?"


@dataclass(frozen=True)
class _Rules:
    """claims: removed with any integer. sayings: where it is the answer. called_right: where it is and no operand."""

    claims: tuple[re.Pattern[str], ...]
    sayings: tuple[re.Pattern[str], ...]
    called_right: tuple[re.Pattern[str], ...]


# Rules are compiled when the first text comes: a fifth of a second, which commands and services that clean none do
# without.
@cache
def _equals() -> re.Pattern[str]:
    return re.compile(
        r"\s?(?<![<>!≠])(?:(?P<equal>[=≈≅≃≒≡])|[~∼]|\\(?:approx|simeq|cong|equiv)\b)"
        rf"\s{{0,8}}\+?{_RESULT}"
    )


@cache
def _english() -> _Rules:
    claims = (
        re.compile(
            r"\s?(?:\bthe\s)?[*_\[\"]{0,3}\b(?:(?:correct|right|final)\s)?(?:answer|result|ans\.?)[*_\"]{0,3}\s{0,2}"
            rf"(?:{_ASIDE}\s{{0,2}}{_BEING}{_ASIDE}|=|:|\]|->|→|≈)[*_]{{0,3}}\s{{0,8}}{_ADVERB}\+?{_RESULT}[.!]?",
            re.IGNORECASE,
        ),
        re.compile(rf"\s?\$?\\f?box(?:ed)?\{{\s?{_NUMBER}(?:[^{{}}]|\{{[^{{}}]{{0,20}}\}}){{0,20}}\}}\$?"),
        re.compile(rf"\s?(?<!\S)#{{4}}\s?{_RESULT}"),
        re.compile(
            rf"\s?<(?:final_?)?(?:answer|ans|result|solution)>\s{{0,4}}(?:=\s?)?{_RESULT}[^<>]{{0,30}}(?:</\w{{1,15}}>)?",
            re.IGNORECASE,
        ),
        # The notes of a calculator, as the solutions of some data sets have them.
        re.compile(rf"\s?<<(?:[^<>\n]{{1,80}}=)?\s?{CURRENCY}?[-−]?[\d.,]{{1,20}}%?\s?>>(?:\s?{_RESULT})?"),
    )
    sayings = (
        re.compile(rf"\s?\b{_IT}{_JOINS}{_ASIDE}{_GAP}{_ADVERB}{_NOUN}{_RESULT}", re.IGNORECASE),
        re.compile(rf"\s?\b{_SO}(?:it|that|this|what|there|here)['’]s{_GAP}{_ADVERB}{_NOUN}{_RESULT}", re.IGNORECASE),
        re.compile(rf"\s?(?:\bwith{_GAP})?{_STARTS}(?<![-−+*/×÷·(]\s){_ADVERB}{_RESULT}{_LEFT}", re.IGNORECASE),
        re.compile(
            r"\s?\b(?:the\s)?(?:correct|right|final|true|expected|actual|exact)\s(?:answer|result|value|number|integer)"
            rf"\s?[,(–—-]?\s?{_RESULT}",
            re.IGNORECASE,
        ),
        re.compile(rf"\s?\b(?:the\s)?(?:answer|result|total|sum)\s?(?:,|\(|\s[–—-])\s?{_RESULT}", re.IGNORECASE),
        re.compile(
            rf"\s?,?\s?\b(?:not|replac(?:e|ing)|chang(?:e|ing)|correct(?:ing)?)\s\S{{1,20}}\s{{0,2}},?\s?"
            rf"\b(?:but|rather|with|by|to|into)\s{_ADVERB}{_RESULT}",
            re.IGNORECASE,
        ),
        re.compile(rf"(?<=[\d)])\s?(?:!=|≠|\\neq?\b)\s{{0,8}}{_RESULT}"),
        # Behind the arrow of a reaction stands a coefficient.
        re.compile(rf"\s?(?:[→⇒⟹]|[=-]>|\\(?:to|[rR]ightarrow)\b)\s{{0,8}}{_RESULT}(?=\s{{0,2}}{_STOP})"),
        re.compile(rf"(?<=\w)\s?:\s{{1,4}}{_RESULT}(?=\s{{0,2}}(?:[.;!?)。]|\n|\Z))", re.IGNORECASE),
        re.compile(
            rf"\s?{_LINE_START}(?:(?:the\s)?(?:final\s)?(?:answer|result)\s)?{_RESULT}[.!。]?(?=\s{{0,4}}(?:\n|\Z))",
            re.IGNORECASE,
        ),
        re.compile(
            rf"\s?\b(?:so|thus|hence|therefore)\b,?{_GAP}{_RESULT}(?=\s{{0,2}}[.;!?)]|\Z|\s(?:because|since)\b)", re.I
        ),
    )
    # What stands before its verb, unless it is the operand of a calculation.
    called_right = (
        re.compile(rf"\s?{_LEAD}{_STARTS}{_RESULT}\s{{0,4}}{_CALLED}[.!]?", re.IGNORECASE),
        re.compile(rf"\s?{_STARTS}{_RESULT}\s{{0,4}}=(?!=)\s?"),
    )
    return _Rules(claims, sayings, called_right)


@cache
def _beside_english(*, in_latin: bool) -> _Rules:
    """The rules of the other languages that are written in Latin letters, or of those that are not."""
    languages = [each for each in _OTHER if ("LATIN" in each.scripts) is in_latin]
    return _Rules(
        tuple(re.compile(_claims_in(each)) for each in languages),
        tuple(re.compile(_sayings_in(each)) for each in languages),
        tuple(re.compile(source) for each in languages for source in _called_right_in(each)),
    )


def split_integer_reveals(text: str, answer: str, question: str = "") -> tuple[str, tuple[str, ...]]:
    """(the feedback without claimed results, what was taken out).

    text: at most some thousand characters; taking one out may bring another together, so it repeats until
    nothing is found. question: a number that it gives in the same words is given, though it is the answer as well.
    """
    removed: list[str] = []
    asked = f" {' '.join(_words(_seen(question, answer), answer))} "
    while spans := _reveals(_seen(text, answer), answer, asked):
        text, pieces = _cut(text, spans)
        removed += pieces
    return text, tuple(removed)


def _seen(text: str, answer: str) -> str:
    """The text for matching, of the same length: digits of all scripts as ASCII ones, the answer's words marked."""
    seen = number_shadow(text)
    if not seen.isascii():
        seen = "".join(str(unicodedata.decimal(each)) if each.isdecimal() else each for each in seen)
    for start, end in list(spelled_spans(seen, answer)):
        # The words for one, and Korean ones of a syllable, are articles and pronouns, too.
        bare = answer == "1" or (end - start == 1 and script_of(seen[start]) == "HANGUL")
        if not bare or _ENDS.match(seen, end):
            seen = seen[:start] + _SPELLED * (end - start) + seen[end:]
    return seen


def _reveals(seen: str, answer: str, asked: str) -> list[tuple[int, int]]:
    spans = [
        found.span()
        for found in _equals().finditer(seen)
        if _is(found, answer) or (found["equal"] and _after_arithmetic(seen, found.start()))
    ]
    others = () if seen.isascii() else (_beside_english(in_latin=False),)
    for rules in (_english(), _beside_english(in_latin=True), *others):
        spans += [found.span() for pattern in rules.claims for found in pattern.finditer(seen)]
        spans += [
            found.span()
            for pattern in rules.sayings
            for found in pattern.finditer(seen)
            if _is(found, answer) and not _is_given(found, answer, asked)
        ]
        spans += [
            found.span()
            for pattern in rules.called_right
            for found in pattern.finditer(seen)
            if _is(found, answer) and not _OPERAND.search(seen[max(0, found.start() - _LOOKED_BACK) : found.start()])
        ]
    return sorted(with_its_stop(seen, start, end) for start, end in spans)


def _after_arithmetic(text: str, position: int) -> bool:
    return position > 0 and (text[position - 1].isdigit() or text[position - 1] == ")")


def _is(found: re.Match[str], answer: str) -> bool:
    written = found["number"] or found["marked"]
    return written.startswith(_SPELLED) or same_integer(written, answer)


def _is_given(found: re.Match[str], answer: str, asked: str) -> bool:
    """Whether the question says so, too. asked: its words between blanks."""
    seen = found.string
    begins, ends = found.span()
    said = _words(found.group(), answer)
    if behind := _WORD_BEHIND.match(seen, ends):
        said += _words(behind[1], answer)
    if not _HAS.isdisjoint(said) or said[0] in _HANDED:
        said = said[-2:]  # the number and of what: `it has 12 protons` may be told in other words
    elif said[0] in _IS or said[0] == answer:
        # Without what it is the number of, `is 12` and `: 12` are said of the answer as well.
        said = _words(seen[max(0, begins - _LOOKED_BACK) : begins], answer)[-1:] + said
    return not _after_arithmetic(seen, begins) and len(said) > 1 and f" {' '.join(said)} " in asked


def _words(seen: str, answer: str) -> list[str]:
    """In lower case, and the answer as digits however it is written."""
    return [
        answer if each.startswith(_SPELLED) or (each[-1].isdigit() and same_integer(each, answer)) else each.lower()
        for each in _WORD.findall(seen)
    ]


def _cut(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[str]]:
    """What is left and what was cut; spans are sorted and may overlap."""
    kept, removed, end = [], [], 0
    for start, stop in spans:
        kept.append(text[end : max(start, end)])
        removed.append(text[max(start, end) : max(stop, end)])
        end = max(end, stop)
    return "".join([*kept, text[end:]]), [piece for piece in removed if piece]
