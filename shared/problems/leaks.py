"""Whether a problem of one partition stands in another: what two questions share, and the check.

The key of a question leaves out what is style: case, width, white space, quotes, sentence punctuation, hyphens and
dashes between words, markup of LaTeX and Markdown, marks between the digits of large numbers, and which sign a
multiplication of numbers has (`spelling.one_spelling`). It keeps what asks something else: words with their combining
marks, numbers with their decimal point, operators, signs, primes, negations, bonds, radicals, charges, exponents, units
such as %, and brackets around a calculation or a pair, of the kind that they are. Case alone tells no two questions
apart: `Co` and `CO` are the same to it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from shared.errors import ProblemSetError
from shared.method.scripts import UNSPACED, marks_as_letters
from shared.problems.spelling import one_spelling

_MAX_LISTED = 5
_LOOKED_AT = 40
"""Tokens of a bracket that are searched for a calculation: bounded, so that nested ones cost linear time."""

_OPTION_LINE = re.compile(r"^[A-J]: (.*)$", re.MULTILINE)
_NON_WORD = re.compile(r"[\W_]+")
_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_TOKEN = re.compile(
    rf"(?P<number>\d+(?:[.,:]\d+)*|\.\d+)|(?P<word>[{UNSPACED}]|(?:(?![{UNSPACED}\d])[^\W_])+)|\s+|-+|\*+|'+|~+|.",
    re.DOTALL,
)
_CALCULATES = frozenset("+-*=×÷^±√·⋅")
_NEVER_STYLE = frozenset("/%‰#&@·^$†‡‖⟨⟩⌈⌉⟦⟧")
_CONTRACTED = frozenset({"s", "m", "d", "ll", "ve"})
_PAIR_TOKENS = 7
"""Of a pair such as `(-1, 2π)` between its brackets."""


# A question is asked for its key when it is drawn, when the set is searched for leaks, and when it is looked up.
@lru_cache(maxsize=4096)
def leak_key(text: str) -> str:
    """What two questions share when one gives the other away; see the module. Takes time linear in the text."""
    tokens = list(_tokens(one_spelling(text)))
    kept = [_asks(tokens, at) for at in range(len(tokens))]
    for at in _primes(tokens):
        kept[at] = True
    for opening, closing in _brackets(tokens):
        kept[opening] = kept[closing] = _bracket_asks(tokens, kept, opening, closing)
    return " ".join(token.text for token, stays in zip(tokens, kept, strict=True) if stays)


def question_key(question: str) -> str:
    """The leak key of a question, in whatever order its options (`A: …` a line) stand."""
    return _of_parts(question, leak_key)


def rough_key(question: str) -> str:
    """One for all questions of a `question_key`, whose letters and digits it is, and found in half the time."""
    return _of_parts(question, lambda part: _NON_WORD.sub("", one_spelling(part)))


def _options(question: str) -> dict[str, str]:
    """By letter, with all of its lines; of the last one, behind which a request may stand, the first."""
    lines = list(_OPTION_LINE.finditer(question))
    ends = [line.start() for line in lines[1:]] + [line.end() for line in lines[-1:]]
    return {line[0][0]: question[line.start(1) : end].strip() for line, end in zip(lines, ends, strict=True)}


def _of_parts(question: str, key: Callable[[str], str]) -> str:
    options = _OPTION_LINE.findall(question)
    if len(options) < 2:
        return key(question)
    return "\n".join([key(_OPTION_LINE.sub("", question)), *sorted(map(key, options))])


def template_key(text: str) -> str:
    """What the stems of templated questions share: words and numbers alone, so that a split does not hang on signs."""
    return _NON_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def refuse_shared_questions(name: str, asked: Sequence[tuple[str, str, str]]) -> list[list[int]]:
    """asked: (partition, id, question) of every problem. Returns the places of each question that is asked again within
    its partition, in order. Raises as `refuse_leaks`."""
    alike: dict[str, list[int]] = {}
    for at, (_, _, question) in enumerate(asked):
        alike.setdefault(rough_key(question), []).append(at)
    # The whole key only where it can matter: of a hundred thousand rows it takes minutes.
    keys = {at: question_key(asked[at][2]) for places in alike.values() if len(places) > 1 for at in places}
    refuse_leaks(name, ((*asked[at][:2], key) for at, key in sorted(keys.items())))
    again: dict[str, list[int]] = {}
    for at, key in keys.items():
        again.setdefault(key, []).append(at)
    return [places for places in again.values() if len(places) > 1]


def same_options(question: str, letter: str) -> str:
    """The letters under which a question has the text of that option; "" where it has no such option."""
    options = _options(question)
    text = options.get(letter)
    return "".join(each for each, other in options.items() if other == text) if text else ""


def answer_key(question: str, answer: str) -> str:
    """What two answers to one question share: of an option's letter what it stands for, as options may be in another
    order."""
    options = _options(question)
    return leak_key(options[answer]) if answer in options else answer


def refuse_leaks(name: str, keyed: Iterable[tuple[str, str, str]]) -> None:
    """keyed: (partition, id, leak key) of every problem. Raises ProblemSetError if a key is in two partitions."""
    first: dict[str, tuple[str, str]] = {}
    shared: list[str] = []
    for partition, problem_id, key in keyed:
        where, twin = first.setdefault(key, (partition, problem_id))
        if where != partition:
            shared.append(f"{twin!r} in {where} and {problem_id!r} in {partition}")
    if shared:
        listed = "; ".join(shared[:_MAX_LISTED]) + ("; …" if len(shared) > _MAX_LISTED else "")
        raise ProblemSetError(
            f"{name}: expected partitions without a question in common, got {len(shared)} that differ "
            f"at most in case or punctuation: {listed}. Remove them from one partition"
        )


class _Token(NamedTuple):
    """text: a word, a number, one symbol (`--` and `**` count as one), or a run of `'` or `~`.

    glued: no blank before it, and none behind it.
    """

    text: str
    kind: str
    glued_left: bool
    glued_right: bool

    @property
    def operand(self) -> bool:
        return self.kind in ("word", "number")


def _tokens(plain: str) -> Iterator[_Token]:
    shown = marks_as_letters(plain)
    if shown != plain:  # marks of unspaced scripts are tokens as their letters are
        shown = "".join(old if _UNSPACED_LETTER.match(old) else new for old, new in zip(plain, shown, strict=True))
    for found in _TOKEN.finditer(shown):
        start, end = found.span()
        text = plain[start:end]
        if not text.isspace():
            # How often they are repeated is typing: `--` is a dash, `**` bold. Of `'` and `~` the number counts.
            run = text[0] if text[0] in "-*" else text
            glued_left = start > 0 and not plain[start - 1].isspace()
            yield _Token(run, found.lastgroup or "symbol", glued_left, end < len(plain) and not plain[end].isspace())


def _asks(tokens: list[_Token], at: int) -> bool:
    """Whether a token is part of what is asked. Brackets are judged apart."""
    token = tokens[at]
    before = tokens[at - 1] if at else None
    behind = tokens[at + 1] if at + 1 < len(tokens) else None
    if token.operand or token.text in _NEVER_STYLE:
        return True
    if token.text == "-":
        return not _joins_words(token, before, behind)
    if token.text == "*":
        return before is not None and behind is not None and token.glued_left == token.glued_right
    if token.text == "!":  # a factorial, unless it ends the text
        return behind is not None and token.glued_left and before is not None and _is_short(before)
    if token.text[0] == "~":  # a negation or a relation; else a tie of LaTeX or struck out
        return token.text == "~" and not token.glued_left and behind is not None
    return token.text != "`" and unicodedata.category(token.text[0]).startswith("S")


def _joins_words(dash: _Token, before: _Token | None, behind: _Token | None) -> bool:
    """A hyphen or a dash of a sentence, no minus, sign, bond or charge; between two single letters it is a minus."""
    if before is None or behind is None:
        return not dash.glued_right
    if before.kind != "word" or behind.kind != "word" or dash.glued_left != dash.glued_right:
        return False
    longer = len(before.text) > 1, len(behind.text) > 1
    return any(longer) if dash.glued_left else all(longer)


def _primes(tokens: list[_Token]) -> Iterator[int]:
    """Where primes and stars are, as in `f''`, `5'`, `(fg)'` and `π*`: behind letters or numbers, closing nothing."""
    # In `the 'best' f'` the first two are quotation marks: one that closes an opened one is no prime.
    opened: set[str] = set()
    for at, token in enumerate(tokens):
        if token.text[0] not in "'*" or (token.text == "*" and token.glued_left == token.glued_right):
            continue
        if token.glued_left and token.text in opened:
            opened.discard(token.text)
        elif token.glued_right and not token.glued_left:
            opened.add(token.text)
        elif token.glued_left and at and _takes_primes(tokens, at - 1) and not _is_apostrophe(tokens, at):
            yield at


def _takes_primes(tokens: list[_Token], at: int) -> bool:
    """Letters, numbers, what brackets close, and letters that LaTeX names, such as `\\psi`."""
    named = at > 0 and tokens[at - 1].text == "\\" and tokens[at - 1].glued_right
    return _is_short(tokens[at]) or tokens[at].text in ")]" or named


def _is_apostrophe(tokens: list[_Token], at: int) -> bool:
    """Whether it joins what stands before to a word, as in `90's`, `I'll` and `l'aire`."""
    if not tokens[at].glued_right or tokens[at + 1].kind != "word":
        return False
    return tokens[at + 1].text in _CONTRACTED or len(tokens[at + 1].text) > 1


def _is_short(token: _Token) -> bool:
    return token.kind == "number" or len(token.text) == 1


def _brackets(tokens: list[_Token]) -> Iterator[tuple[int, int]]:
    """Positions of brackets that belong together."""
    opened: list[int] = []
    for at, token in enumerate(tokens):
        if token.text in "([":
            opened.append(at)
        elif token.text in ")]" and opened:
            yield opened.pop(), at


def _bracket_asks(tokens: list[_Token], kept: list[bool], opening: int, closing: int) -> bool:
    """Whether brackets group a calculation or belong to a formula, as in `2(3 + 4)`, `f(x)` and `CC(C)O`."""
    if opening and tokens[opening].glued_left and tokens[opening - 1].operand:
        return True
    if closing + 1 < len(tokens) and tokens[closing].glued_right and tokens[closing + 1].operand:
        return True
    if _is_pair(tokens[opening + 1 : min(closing, opening + 2 + _PAIR_TOKENS)]):
        return True
    outside = (at for at in (opening - 1, closing + 1) if 0 <= at < len(tokens))
    inside = range(opening + 1, min(closing, opening + _LOOKED_AT))
    return any(kept[at] and tokens[at].text in _CALCULATES for at in outside) or any(
        kept[at] and tokens[at].text in _CALCULATES - {"^"} for at in inside
    )


def _is_pair(inside: list[_Token]) -> bool:
    """Two short terms with a comma between them: an interval or a point."""
    commas = sum(token.text in ",;" for token in inside) + sum("," in token.text for token in inside if token.operand)
    return len(inside) <= _PAIR_TOKENS and commas == 1 and all(_is_short(token) for token in inside if token.operand)
