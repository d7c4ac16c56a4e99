"""A question's text in one spelling: signs that are written in several ways become one, and none changes its meaning.

`7 × 5`, `7 \\times 5` and `7*5` are one calculation, while `a × b` and `a · b` are two products of vectors; `f''`, `f″`
and `f^{\\prime\\prime}` are one derivative. What always holds: time is linear in the text.
"""

import re
import unicodedata

from shared.method.sanitizing import remove_invisible

_SIGNS = {
    "times": "×",
    "cdot": "·",
    "bullet": "·",
    "div": "/",
    "pm": "±",
    "mp": "∓",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "ne": "≠",
    "neq": "≠",
    "approx": "≈",
    "to": "→",
    "rightarrow": "→",
    "longrightarrow": "→",
    "rightleftharpoons": "⇌",
    "infty": "∞",
    "degree": "°",
    "setminus": "⧵",
    "neg": "¬",
    "lnot": "¬",
    "langle": "⟨",
    "rangle": "⟩",
    "lfloor": "⌊",
    "rfloor": "⌋",
    "lceil": "⌈",
    "rceil": "⌉",
    "dagger": "†",
    "ddagger": "‡",
    "|": "‖",
}
"""Commands of LaTeX that are a sign."""

_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|(\|))")
_DEGREE = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))")
_PRIMES = re.compile(r"\^\s?(?:\{\s?((?:\\prime\s?){1,4})\}|((?:\\prime(?![A-Za-z])){1,4}))")
# In SMILES a backslash is a bond beside a double one, and says cis from trans; in LaTeX it begins a command.
_BOND = re.compile(
    r"(?<=[A-Za-z0-9)\](])\\(?=(?!AA|Pi|Xi|Re|Im)[A-Z](?![a-z]{2}|[A-Z]{2})|\[[A-Z][a-z]?[@H+\d\]-]|[cnops]\d)"
)
_LATEX_QUOTES = re.compile(r"(?<![\w`])`(`)?([^`'\n]{1,80})'(?(1)')(?!\w)")
_SET_MINUS = re.compile(r"(?<=\s)\\(?=\s)")
_BULLET = re.compile(r"(?<!\S)•(?=\s)|(?<![^\n])[ \t]{0,8}[·∙▪‣◦](?=\s)")
_GROUPED = re.compile(r"(?<![\w.,'’])\d{1,3}(?:(?:['’]\d{3})+|(?:_\d{3})+|(?:[\u00a0\u2009\u202f]\d{3})+)(?!\w)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_NO_DIGIT = re.compile(r"\D")
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+[⁺⁻]?|[⁺⁻]")
_BEFORE_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_CHARGE = re.compile(r"\^\s?(?:\{\s?(\d{0,3}[+-])\s?\}|(\d{0,3}[+-])(?!\s{0,9}[\w(]))")
_FORMULA = re.compile(r"\$\$?(?=[^\s$])([^$]{0,2000}[^\s$])\$\$?(?!\d)")
_ALIKE = str.maketrans(
    dict.fromkeys("‐‑‒–—―−﹣", "-")
    | dict.fromkeys("⁄∕÷", "/")
    | dict.fromkeys("‘’′ʹʼ", "'")
    | dict.fromkeys('"“”„‟', "''")
    | dict.fromkeys("•∙⋅", "·")
    | dict.fromkeys("⟶", "→")
)
_IN_ASCII = {
    "<=>": "⇌",
    "<->": "⇌",
    "-->": "→",
    "->": "→",
    "=>": "⇒",
    "<=": "≤",
    ">=": "≥",
    "!=": "≠",
    "+/-": "±",
}
_DRAWN = re.compile("|".join(map(re.escape, _IN_ASCII)))
_POWER = re.compile(r"(?<=[\w)])(?:\*\*| \*\* )(?=[\w(-])")
_MULTIPLIES = r"(?:\s?[×·]\s?|\*| \* )"
_TIMES = re.compile(
    rf"(?<=\d){_MULTIPLIES}(?=[\w(])|(?<=[\w)]){_MULTIPLIES}(?=\d)|(?<=\d) x (?=\d)|(?<=\d)x(?=10\s?\^)"
)
_PAIR = re.compile(r"(?<=[(\[])\s?(-?[\d.]{1,20})\s?[,;]\s?(-?[\d.]{1,20})\s?(?=[)\]])")
_POINT_FIRST = re.compile(r"(?<![\w.)\]])\.(?=\d)")


def one_spelling(text: str) -> str:
    """The text with exponents behind `^`, charges behind their atom, no formula marks, and one sign for each meaning;
    in one case, width and kind of quotes (`'`, and `''` for double ones).
    """
    signed = _BULLET.sub(" ", _BOND.sub("⧵", _PRIMES.sub(_primes, _DEGREE.sub("°", remove_invisible(text)))))
    signed = _LATEX_QUOTES.sub(_quoted, _SET_MINUS.sub("⧵", _COMMAND.sub(_sign, signed)))
    grouped = _GROUPED.sub(lambda number: _NO_DIGIT.sub("", number.group()), signed)
    spelled = _SUPERSCRIPT.sub(_exponent, _BEFORE_FRACTION.sub(" ", grouped))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", spelled).casefold()).translate(_ALIKE)
    formula = _FORMULA.sub(r"\1", _CHARGE.sub(lambda charge: charge[1] or charge[2], folded))
    whole = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), formula)
    drawn = _POWER.sub("^", _DRAWN.sub(lambda found: _IN_ASCII[found.group()], whole))
    return _POINT_FIRST.sub("0.", _PAIR.sub(r"\1, \2", _TIMES.sub(" * ", drawn)))


def _sign(command: re.Match[str]) -> str:
    return _SIGNS.get(command[1] or command[2], command.group())


def _quoted(quotation: re.Match[str]) -> str:
    mark = "''" if quotation[1] else "'"
    return f"{mark}{quotation[2]}{mark}"


def _primes(found: re.Match[str]) -> str:
    return "'" * (found[1] or found[2]).count("\\prime")


def _exponent(found: re.Match[str]) -> str:
    run = unicodedata.normalize("NFKC", found.group())
    return run if found.group()[-1] in "⁺⁻" else f"^{run}"
