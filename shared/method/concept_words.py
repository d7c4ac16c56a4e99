"""The words of a concept and of a problem, made comparable, and which of them can anchor a feedback.

Whole words after NFKC, case folding and removal of LaTeX markup; a hyphenated word counts whole and in parts; no
stemming. The paper names nine words that cannot anchor; stop words and the vocabulary of multiple choice join them.
"""

import re
import unicodedata
from collections.abc import Iterator

from shared.method.sanitizing import remove_invisible

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
_FONT_COMMAND = re.compile(r"\\(?:math[a-z]{1,5}|text[a-z]{0,6}|boldsymbol|operatorname|rm|bf|it|ce|left|right)\b")
_OTHER_COMMAND = re.compile(r"\\(?:[a-z]{1,40}|.)", re.DOTALL)
_MARKUP = re.compile(r"[{}$_^]")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_JOINT = re.compile("[-']")


def comparable(text: str) -> str:
    """The text as it is compared: `$\\mathrm{CO_2}$`, `$\\mathrm{CO}_2$` and `CO₂` are all `co2`."""
    folded = unicodedata.normalize("NFKC", remove_invisible(text)).casefold().replace("’", "'")
    plain = _OTHER_COMMAND.sub(" ", _FONT_COMMAND.sub("", _DASHES.sub("-", folded)))
    return _MARKUP.sub("", plain.replace("}{", " "))


def words(text: str) -> Iterator[str]:
    """Every word in order; a hyphenated one first whole, then in parts."""
    for whole in _WORD.findall(comparable(text)):
        yield whole
        parts = _JOINT.split(whole)
        if len(parts) > 1:
            yield from parts


def anchoring_words(concept: str) -> list[str]:
    """The words of a concept that may tie it to a problem, in order."""
    return [word for word in words(concept) if _can_anchor(word)]


def _can_anchor(word: str) -> bool:
    """False for generic words, single ASCII letters and tokens without a letter; a compound needs one good part."""
    return any(
        part not in CANNOT_ANCHOR and any(map(str.isalpha, part)) and not (len(part) == 1 and part.isascii())
        for part in _JOINT.split(word)
    )
