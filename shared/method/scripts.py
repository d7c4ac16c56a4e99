"""What Unicode says of scripts: which set no blanks, what belongs to a letter or looks like one, which a text is in."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3100-\u312f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Han, kana
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecf\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u109f\ua9e0-\ua9ef\uaa60-\uaa7f\u1780-\u17d3\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"
)
"""Inside a character class of `re`: letters and marks of scripts that set no blanks between words (Han, kana, Thai,
Lao, Myanmar, Khmer, Tai scripts)."""

HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
"""The same for Korean, which sets blanks, yet writes particles and compounds in one word."""


_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOOK_ALIKES = {
    ord(alike): latin
    for alikes, latins in (
        ("АВЕЅІЈСНТМКОРХасеорхуіјѕ", "ABESIJCHTMKOPXaceopxyijs"),  # Cyrillic
        ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo"),  # Greek
        ("ᎪᏴᏟᎠᎬᏀᎻᎫ", "ABCDEGHJ"),  # Cherokee
        ("ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙ", "ABCDEFGHIJ"),  # Lisu
        *(("".join(chr(first + at) for at in range(26)), _CAPITALS) for first in (0x249C, 0x1F110, 0x1F150, 0x1F170)),
    )
    for alike, latin in zip(alikes, latins, strict=True)
}
"""For `str.translate`: letters that a reader takes for Latin ones, and letters in brackets, circles and squares that
NFKC leaves (`⒞`, `🅒`), as the Latin ones."""


class _MarksAsLetters(dict[int, int]):
    """For `str.translate`: a combining mark becomes a letter, everything else stays."""

    def __missing__(self, code: int) -> int:
        self[code] = ord("x") if unicodedata.category(chr(code)).startswith("M") else code
        return self[code]


_MARKS_AS_LETTERS = _MarksAsLetters()
_WORD = re.compile(r"[^\W_]+")


def marks_as_letters(text: str) -> str:
    """The text with a letter for every combining mark, of the same length: `\\w` of `re` knows no mark, and would cut
    words of Hindi, Thai or Hebrew at each vowel sign."""
    return text if text.isascii() else text.translate(_MARKS_AS_LETTERS)


def word_spans(text: str, pattern: re.Pattern[str] = _WORD) -> Iterator[tuple[int, int]]:
    """Where the words of a text are, with their marks. pattern: what a word is, once marks are letters."""
    return (found.span() for found in pattern.finditer(marks_as_letters(text)))


def letter_count(text: str) -> int:
    """How many characters a reader counts: a letter and its marks are one."""
    return len(text) if text.isascii() else sum(not unicodedata.category(each).startswith("M") for each in text)


@lru_cache(maxsize=4096)
def script_of(character: str) -> str | None:
    """The script of a letter as the first word of its Unicode name (`LATIN`, `CJK`, `HANGUL`); None for others."""
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "").split()
    return name[0].partition("-")[0] if name else None


def scripts_of(text: str) -> Counter[str]:
    """How many letters of each script the text has."""
    plain = unicodedata.normalize("NFKC", text)
    return Counter(script for script in map(script_of, plain) if script is not None)
