"""What gives the option letter away, as patterns. Case of the letter matters, case of the keywords does not.

English has its patterns here; those of other languages are put together from their row in `languages.py`.

Every repetition is bounded, so matching is linear in the text. Patterns run on the length-preserving shadow of
`sanitizing.shadow`. The paper removes boxed letters, bold letters, "Final answer: X" and "The correct option is X";
the rest closes leaks seen in such feedback. A letter is one of A-J (sets have up to ten options), in upper case,
or in any case inside brackets, so that the article "a" is none; nor is a symbol (`B_0`, `B-field`, `\\mathbf{B}`).
"""

import re
from collections.abc import Iterator

from shared.method.boxes import boxed_letters
from shared.method.languages import LANGUAGES, Language, loose
from shared.method.redaction import Span

_HYPHEN = "‐‑–−-"
_SYMBOL_GOES_ON = rf"[^\W_]|_[^\W_]|_[{{\\]|\^|['’][^\W_]|[{_HYPHEN}][^\W_]|\s{{0,2}}=\s{{0,2}}[^\s\d.+{_HYPHEN}]"
_WRAP_OPEN = r"(?:[*_`\"'“”‘’«»„「『【$]|\\(?:text|textbf|mathrm|mathbf|boxed)\s?\{|\{){0,4}"
_WRAP_CLOSE = r"[*_`\"'“”‘’«»」』】$}]{0,6}"
_BRACKETED = r"[(\[{]\s?[A-Ja-j]\s?[)\]}]"
_LETTER = rf"{_WRAP_OPEN}(?:{_BRACKETED}|[A-J](?!{_SYMBOL_GOES_ON})[)\]]?){_WRAP_CLOSE}"
_MORE = rf"(?:\s{{0,2}}(?:/|&|\bor\b|\band\b)\s{{0,2}}{_LETTER}(?!\s(?:is|are|was|has|can|would|should)\b)){{0,4}}"
# The option's own text after its letter ("D: 3.96") reveals as much as the letter.
_VALUE = (
    r"(?:[ \t]{0,2}:[ \t]{0,2}(?:[^\s.,;:!?。、،؟]|(?<=\d)[.,](?=\d)"
    r"|[ \t](?!(?:because|since|as|which|but|while|though|so|and)\b)){1,120})?"
)
_ORDINAL = (
    r"(?:the\s)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|1st|2nd|3rd|[4-9]th)\s"
    r"(?:answer\s)?(?:option|choice|alternative|answer)\b"
)
_TARGET = rf"(?:{_LETTER}{_MORE}{_VALUE}|(?i:{_ORDINAL}))"

_LEAD = (
    r"(?<!\w)[*_]{0,3}(?:(?:so|thus|hence|therefore|overall|ultimately|finally|consequently|clearly|in conclusion"
    r"|in summary)\b\s{0,2},?\s{1,2})?(?:(?:the|your|my|its|their|our|this)\s{1,3})?"
)
_ADJECTIVE = (
    r"(?:final|correct|right|best|true|proper|expected|intended|actual|only|closest|nearest|likely"
    r"|most\s(?:likely|appropriate|plausible|accurate|suitable))"
)
_JUDGED = r"(?:correct|right|best|closest|nearest|intended|expected|true|most\s(?:likely|appropriate|plausible))"
_NOUN = r"(?:answers?|option|choice|selection|pick|alternative|letter)"
_SCOPE = (
    r"(?:\s(?:here|overall|choice|option|letter|(?:to|for)\s(?:this|the)\s(?:question|problem)"
    r"|among\s(?:these|the\soptions)|(?:from|of)\s(?:these|the\s(?:options|choices))))?"
)
_ADVERB = (
    r"(?:(?:therefore|thus|hence|clearly|indeed|simply|actually|then|probably|definitely|really|obviously"
    r"|(?:most\s)?likely|in\sfact|only),?\s{1,3})?"
)
_BEING = (
    r"(?:(?:(?:would|should|must|will|could|may|might|can|has\sto|ought\sto|seems\sto|appears\sto|needs\sto)\s{1,3}be"
    r"|is|are|was)\b|remains\b)"
)
_CONNECT = rf"(?:\s{{1,4}}{_BEING}[*_]{{0,3}}\s{{0,2}}:?|[*_]{{0,3}}\s{{0,3}}(?::|=>?|->|→))[*_]{{0,3}}\s{{0,4}}"
_NAMED = r"(?:(?:the\s)?(?:option|choice|answer|letter|alternative)\s{1,3})?"
_VERDICT_NOUN = r"(?:answer|option|choice|one|fit|match|selection|solution|alternative|pick)"
_CLAUSE_END = r"(?=\s{0,2}(?:[.,;:!?)*]|\Z)|\s{1,2}(?:because|since|here|as|and|for|given)\b)"
_HELD_CORRECT = (
    rf"(?:the\s{{1,3}}(?:only\s)?{_JUDGED}[\s-]{{1,3}}{_VERDICT_NOUN}\b|the\s{{1,3}}answer\b"
    rf"|(?:the\s)?(?:correct|right|best){_CLAUSE_END})"
)

_BOX_OPEN = (
    r"\\(?:boxed|fbox|framebox)\s{0,3}\{\s{0,3}(?:\\(?![dt]?frac|vec|hat|over)[A-Za-z]{1,12}\s{0,2}\{\s{0,2}|[{(\[]\s{0,2}){0,3}"
    r"(?:(?:the\s)?(?:option|answer|choice)\s{0,2}:?\s{0,2})?"
)
_BOX = (
    rf"{_BOX_OPEN}[A-Ja-j](?!{_SYMBOL_GOES_ON}|\s{{0,2}}[=+*/\\<>])\s{{0,2}}[)\].}}]{{0,4}}"
    r"(?:\s{0,2}[:.)]\s{0,2}[^{}\n$]{0,80})?\s{0,2}\}{0,3}"
)
_BOLD_INSIDE = r"(?:[A-J]|[(\[][A-Ja-j][)\]])(?:[.:,;)]|[.:)]\s?[^*_<>\n]{1,80})?"

_SOURCES = (
    # \boxed{B}, $\boxed{\text{B}}$
    rf"(?P<dollar>\${{1,2}})\s{{0,2}}{_BOX}\s{{0,2}}(?P=dollar)|{_BOX}",
    r"\\boxed\s{1,2}[A-J](?![\w\\^])",
    # **B**, __B__, <b>B</b>, \textbf{B}
    rf"(?<![\w*])(?P<stars>\*{{2,3}}){_BOLD_INSIDE}(?P=stars)(?![\w*])",
    rf"(?<!\w)__{_BOLD_INSIDE}__(?!\w)",
    rf"<(?P<bold>(?i:b|strong))>\s{{0,2}}{_BOLD_INSIDE}\s{{0,2}}</(?P=bold)>",
    r"\\textbf\s?\{\s?(?:[A-J]|[(\[][A-Ja-j][)\]])[.:]?\s?\}",
    # <answer>B</answer>
    r"<(?i:answer)>(?=[^<]{0,200}[^\W_])[^<]{1,200}</(?i:answer)>",
    rf"<(?i:answer)>\s{{0,8}}{_LETTER}(?:\s{{0,8}}</(?i:answer)>)?",
    # the answer is B; correct option: B
    rf"(?i:{_LEAD}(?:{_ADJECTIVE}[\s-]{{1,3}}){{0,3}}{_NOUN}{_SCOPE}{_CONNECT}{_ADVERB}{_NAMED}){_TARGET}",
    # the best fit is B; the correct reactant is B
    rf"(?i:{_LEAD}(?:{_JUDGED}[\s-]{{1,3}})(?:[a-z]{{2,20}}[\s-]{{1,3}}){{0,2}}[a-z]{{2,20}}{_CONNECT}{_ADVERB}{_NAMED}){_TARGET}",
    # final answer B; the correct option (B)
    rf"(?i:{_LEAD}(?:final\s{{1,3}}answer|{_JUDGED}\s{{1,3}}(?:answer|option|choice|alternative|letter))"
    rf"[*_]{{0,3}}\s{{0,2}},?\s{{1,4}}){_TARGET}",
    # choose B
    r"(?i:(?<!not )(?<!n't )(?<!n’t )(?<!never )(?<!\w)(?:so\s|please\s)?"
    rf"(?:choose|select|pick|opt\sfor|go\swith|settle\son)\s{{1,4}}{_NAMED}){_TARGET}",
    # it must be B; so it is B
    rf"(?i:(?<!\w)(?:(?:so|thus|hence|therefore|then)\b,?\s{{1,2}})?(?:it|this|that|which)\s{{1,3}}"
    rf"(?:must|has\sto|have\sto|should|can\sonly|would|will|ought\sto)\s{{1,3}}be\s{{1,3}}{_NAMED}){_TARGET}{_CLAUSE_END}",
    rf"(?i:(?<!\w)(?:so|thus|hence|therefore|then)\b,?\s{{1,2}}(?:it\sis|it['’]s|that\sis)\s{{1,3}}{_NAMED}){_TARGET}{_CLAUSE_END}",
    # option B is correct; B is the correct answer
    rf"(?i:{_LEAD})(?:(?i:(?:option|choice|answer|letter|alternative)\s{{1,3}}){_LETTER}|(?i:{_ORDINAL}))"
    rf"(?i:\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}(?:{_HELD_CORRECT}|correct(?![\w-])))",
    rf"(?<![\w\\{{'’{_HYPHEN}]){_LETTER}(?i:\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}{_HELD_CORRECT})",
    rf"(?i:(?<!\w)(?:option\s{{1,3}})?)(?<!\w){_LETTER}(?i:\s{{1,3}}(?:fits|matches|works)\s{{1,3}}best\b)",
)

_LATIN_ARTICLE = r"(?:(?:la|le|el|il|lo|die|der|das|a|o|ma|ta|tu|su|sa)\s{1,2}|l['’])?"
_CLAUSE_ENDS = (
    r"(?=\s{0,2}(?:[.,;:!?)*\n。、।؟،]|\Z|因为|因為|所以|ので|から)"
    r"|\s{0,2}(?:car|parce|weil|denn|da|porque|pues|perché|poiché|так|потому|поскольку|क्योंकि|لأن)\b)"
)
# Between letters of other scripts, and before the copula of Chinese, Japanese and Korean, no blank is set.
_STANDS_ALONE = (
    rf"[A-Za-z0-9\u00c0-\u024f]|_[^\W_]|_[{{\\]|\^|['’][A-Za-z]|[{_HYPHEN}][A-Za-z0-9]|\s{{0,2}}=\s{{0,2}}[A-Za-z\\]"
)
_LATIN_LETTER = rf"{_WRAP_OPEN}(?:{_BRACKETED}|[A-J](?!{_STANDS_ALONE})[)\]]?){_WRAP_CLOSE}"
# Letters that Russian and Arabic writers set for the Latin ones are words, too, so only where a clause ends.
_OWN_LETTERS = {"CYRILLIC": "АВСЕН", "ARABIC": "أابجده"}


def named_answer(language: Language) -> str:
    """The pattern of all that stands before an answer: `la respuesta correcta es la opción `."""
    return loose(
        rf"(?i:{_edge(language)}(?:{language.answer})[*_]{{0,3}}"
        rf"(?:\s{{0,3}}(?:{language.being})\s{{0,2}}:?|\s{{0,2}}(?::|=>?|->|→|[-–—]\s)){{1,2}}[*_]{{0,3}}\s{{0,3}}"
        rf"(?:(?:{language.option})\s{{0,2}}:?\s{{0,2}})?)"
    )


def closing_words(language: Language) -> str:
    """The pattern of what may close a clause that names an answer; fails where it says that it is none."""
    denied = rf"(?!\s{{0,3}}(?:{language.negation}))" if language.negation else ""
    return loose(rf"{denied}(?i:{language.tail})")


def edge_of_word(language: Language) -> str:
    """Nothing where blanks do not tell words apart."""
    return r"(?<!\w)" if set(language.scripts) <= {"LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI"} else ""


def _edge(language: Language) -> str:
    return edge_of_word(language) + (_LATIN_ARTICLE if "LATIN" in language.scripts else "")


def _sources_in(language: Language) -> Iterator[str]:
    own = "".join(_OWN_LETTERS.get(script, "") for script in language.scripts)
    letter = rf"(?:{_LATIN_LETTER}|[{own}](?!\w){_CLAUSE_ENDS})" if own else _LATIN_LETTER
    ordinal = loose(rf"(?i:{language.ordinal})")
    target = rf"(?:{ordinal}|{letter}{_VALUE})"
    option = loose(rf"(?i:(?:{language.option})\s{{0,3}})")
    closing = closing_words(language)
    yield rf"{named_answer(language)}{target}{closing}"
    judged = loose(rf"(?i:{language.right})")
    start = rf"(?<![A-Za-z0-9\\{{'’{_HYPHEN}]){_edge(language)}"
    named = rf"{option}(?:{_LATIN_LETTER}|[{own}](?!\w))" if own else rf"{option}{_LATIN_LETTER}"
    yield rf"{start}(?:{named}|{letter}|{ordinal})\s{{0,3}}{judged}{closing}{_CLAUSE_ENDS}"
    if language.choose:
        yield rf"{loose(rf'(?i:{_edge(language)}(?:{language.choose}))')}\s{{0,3}}{option}?{target}"


_IN_LATIN, _IN_OTHER_SCRIPTS = (
    tuple(
        re.compile(source)
        for language in LANGUAGES
        if language.answer and ("LATIN" in language.scripts) is latin
        for source in _sources_in(language)
    )
    for latin in (True, False)
)
_ENGLISH = tuple(re.compile(source) for source in _SOURCES)


def revealing_spans(seen: str) -> Iterator[Span]:
    """Where a text names the answer, in no order, overlapping. seen: the shadow of the text."""
    # Most texts are ASCII, and two thirds of the time would go into scripts that they do not have.
    for pattern in (*_ENGLISH, *_IN_LATIN, *(() if seen.isascii() else _IN_OTHER_SCRIPTS)):
        yield from (found.span() for found in pattern.finditer(seen))
    yield from boxed_letters(seen)
