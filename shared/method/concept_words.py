"""The words of a concept and of a problem, made comparable, and which of them can anchor a feedback.

Whole words after NFKC, case folding and removal of LaTeX markup; a hyphenated word counts whole and in parts; no
stemming. A combining mark belongs to its word. Scripts without blanks between words (Han, kana, Thai, …) and Hangul,
which writes particles and compounds in one word, are matched as stretches of the question instead: of at least two
characters, since one Han character or syllable stands in most questions. The paper names nine words that cannot
anchor; stop words and the vocabulary of multiple choice join them, in English always, in the question's language too.
"""

import re
import unicodedata
from collections.abc import Iterator

from shared.method.languages import common_words, language_of
from shared.method.sanitizing import remove_invisible
from shared.method.scripts import HANGUL, UNSPACED, letter_count, word_spans

_PAPER = "problem question answer value calculation formula student peer specialist"
_PAPER_PLURALS = "problems questions answers values calculations formulas formulae students peers specialists"
_CHOICE = (
    "option options choice choices step steps concept concepts term terms keyword keywords word words "
    "letter letters solution solutions response responses result results reason reasons reasoning "
    "explanation feedback attempt domain domains correct incorrect right wrong following given please "
    "select choose determine calculate find describe explain identify compute evaluate statement "
    "statements"
)
_STOP = (
    "a about above after again all also an and any are as at be because been before being below between "
    "both but by can could did do does doing down during each either else few for from further had has "
    "have having he her here hers him his how i if in into is it its itself just let me more most much "
    "must my no nor not now of off on once one only or other our out over own per same shall she should "
    "so some such than that the their them then there these they this those through to too under until up "
    "upon us very via was we were what when where whether which while who whom whose why will with within "
    "without would you your"
)
CANNOT_ANCHOR = frozenset(f"{_PAPER} {_PAPER_PLURALS} {_CHOICE} {_STOP}".split())

_DASHES = re.compile("[‐‑‒–−]")
# These go without a trace, so that a formula in an upright font stays one word; any other command parts words.
_FONT_COMMAND = re.compile(r"\\(?:math[a-z]{1,5}|text[a-z]{0,6}|boldsymbol|operatorname|rm|bf|it|ce|left|right)\b")
_OTHER_COMMAND = re.compile(r"\\(?:[a-z]{1,40}|.)", re.DOTALL)
_MARKUP = re.compile(r"[{}$_^]")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_JOINT = re.compile("[-']")
UNSPACED_LETTER = re.compile(f"[{UNSPACED}{HANGUL}]")
"""A letter of a script in which blanks do not tell words apart."""

_RUNS = re.compile(f"[{UNSPACED}{HANGUL}]+|[^{UNSPACED}{HANGUL}]+")
_HANGUL_PARTICLE = re.compile(f"(?<=[{HANGUL}])(?:에서|으로|까지|부터|에게|[은는이가을를의에로와과도만])$")
MIN_STRETCH = 2
"""Characters that a stretch of an unspaced script needs to anchor: `力` alone stands in every other question."""


def comparable(text: str) -> str:
    """The text as it is compared: `$\\mathrm{CO_2}$`, `$\\mathrm{CO}_2$` and `CO₂` are all `co2`."""
    # Invisible characters first: one inside a word would make it another word.
    folded = unicodedata.normalize("NFKC", remove_invisible(text)).casefold().replace("’", "'")
    plain = _OTHER_COMMAND.sub(" ", _FONT_COMMAND.sub("", _DASHES.sub("-", folded)))
    return _MARKUP.sub("", plain.replace("}{", " "))


def words(text: str) -> Iterator[str]:
    """Every word in order: whole, then a hyphenated one in parts, then one of several scripts in its stretches."""
    plain = comparable(text)
    for start, end in word_spans(plain, _WORD):
        whole = plain[start:end]
        yield whole
        parts = _JOINT.split(whole)
        # Whole and in parts: a tutor may write `half-life` where the problem has `half life`, or the reverse.
        if len(parts) > 1:
            yield from parts
        for part in parts:
            runs = _runs(part)
            if len(runs) > 1:
                yield from runs


def anchoring_words(concept: str, question: str = "") -> list[str]:
    """The words of a concept that may tie it to a problem, in order.

    question: in its language, too, frequent words and the vocabulary of multiple choice tie nothing.
    """
    common = common_words(language_of(question))
    found: list[str] = []
    for word in words(concept):
        if _can_anchor(word, common):
            found.append(word)
        found += [part for part in _stretches(word, common) if part != word]
    return found


def stands_in(word: str, text: str, known: frozenset[str]) -> bool:
    """Whether a word of a concept is in a text: as one of its words, or as a stretch where no blanks tell words.

    text: `comparable`; known: its `words`.
    """
    return word in known or (bool(UNSPACED_LETTER.search(word)) and word in text)


def _can_anchor(word: str, common: frozenset[str]) -> bool:
    """False for generic words, single letters of any script and tokens without a letter; a compound needs one good
    part."""
    return any(_is_telling(run, common) for part in _JOINT.split(word) for run in _runs(part))


def _is_telling(run: str, common: frozenset[str]) -> bool:
    if UNSPACED_LETTER.match(run):
        return bool(_stretches(run, common))
    return run not in CANNOT_ANCHOR and run not in common and any(map(str.isalpha, run)) and letter_count(run) > 1


def _stretches(word: str, common: frozenset[str]) -> list[str]:
    """What is left of an unspaced word between parts that are common, and without a Korean particle at its end."""
    if not UNSPACED_LETTER.search(word):
        return []
    bare = _HANGUL_PARTICLE.sub("", word)
    # Longest first, or a short common word would cut a longer one in two.
    parts = re.split("|".join(map(re.escape, sorted(common, key=len, reverse=True))), bare) if common else [bare]
    return [part for part in parts if UNSPACED_LETTER.match(part) and letter_count(part) >= MIN_STRETCH]


def _runs(part: str) -> list[str]:
    return [part] if part.isascii() else _RUNS.findall(part)
