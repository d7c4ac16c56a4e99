"""An option letter as it is written, as patterns: what may stand around it, and what tells it from a symbol.

`\\(D\\)`, `$\\mathbf{D}$`, `<u>D</u>` and `**(d)**` are the letter D; `B_0`, `B-field` and `$B$ times` are symbols.
Every repetition is bounded, so matching is linear in the text.
"""

_TAGS = r"(?i:u|em|i|b|strong|code|mark|tt|kbd|ins)"
MARKUP_OPENS = (
    r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|sf|it)|boldsymbol|bm|boxed|underline|emph)\s?\{"
    rf"|\\[(\[]\s{{0,4}}|<{_TAGS}>"
)
"""Opens markup around an answer, a letter or a number; a dollar sign is both ends of its own."""

MARKUP_CLOSES = rf"\s{{0,4}}\\[)\]]|</{_TAGS}>"
"""Closes it, where a brace does not."""

HYPHEN = "‐‑–−-"
_WRAP_OPEN = rf"(?:[*_`\"'“”‘’«»„「『【$]|[(\[](?=[$<\\])|{MARKUP_OPENS}|\{{){{0,5}}"
_WRAP_CLOSE = rf"(?:[*_`\"'“”‘’«»」』】$}}]|{MARKUP_CLOSES}){{0,6}}"
_BRACKETED = r"[(\[{]\s?[A-Ja-j]\s?[)\]}]"

SYMBOL_GOES_ON = rf"[^\W_]|_[^\W_]|_[{{\\]|\^|['’][^\W_]|[{HYPHEN}][^\W_]|\s{{0,2}}=\s{{0,2}}[^\s\d.+{HYPHEN}]"
SYMBOL_GOES_ON += r"|\s{0,2}\\(?:times|cdot|div|approx|propto)\b"
SYMBOL_GOES_ON += rf"|{_WRAP_CLOSE}\s(?:(?:times|squared|cubed|multiplied|divided)\b|[×·÷]\s)"

# Between letters of other scripts, and before the copula of Chinese, Japanese and Korean, no blank is set.
_STANDS_ALONE = (
    rf"[A-Za-z0-9\u00c0-\u024f]|_[^\W_]|_[{{\\]|\^|['’][A-Za-z]|[{HYPHEN}][A-Za-z0-9]|\s{{0,2}}=\s{{0,2}}[A-Za-z\\]"
)


def _written(goes_on: str) -> str:
    letter = rf"(?:{_BRACKETED}|[A-J](?!{goes_on})[)\]]?)"
    return rf"{_WRAP_OPEN}{letter}{_WRAP_CLOSE}(?:(?<=[$}}>)\]])[)\]])?"


LETTER = _written(SYMBOL_GOES_ON)
LATIN_LETTER = _written(_STANDS_ALONE)
"""The same within a text of another language."""
