"""Taking the letter of the right option out of a feedback, where a sentence points at it.

`shared/method/reveals.py` takes out what names any option as the answer. What merely points at one (`corresponds to
option D`, `not B but D`, `gives 3 m (option D)`) is as often said of the wrong one that a peer chose, and is part of a
review: it goes only where the option is the right one. Ordinary mentions of it stay (`option D is too low`), and so do
symbols and names (`D = 3 m`, `A + B → C`, `the value of D remains constant`). English only. What always holds:
characters are only removed.
"""

import re
from functools import cache

from shared.method.letters import LETTER
from shared.method.redaction import between, merged
from shared.method.sanitizing import shadow, with_its_stop

_WORD = r"(?i:(?:the\s)?(?:option|choice|answer|letter|alternative)\s)"
_ENDS = r"(?=\s{0,2}(?:[.,;!?)\]\"”’]|\n|\Z)|:\s|\s(?i:because|since|as|and|so|which|rather|instead)\b)"
_POINTED = rf"(?:{_WORD}(?P<named>{LETTER})|(?P<bare>{LETTER}){_ENDS})"
_POINTS = (
    r"(?:correspond(?:s|ed|ing)?\sto|match(?:es|ed|ing)?|(?:clos|near)e(?:r|st)\sto|consistent\swith"
    r"|(?:agree|align)(?:s|ed|ing)?\swith|(?:point|lead|switch)(?:s|es|ed|ing)?\s(?:to|towards?)|led\sto"
    r"|(?:support|favou?r|suggest|indicate)(?:s|d|ed|ing)?|impl(?:y|ies|ied|ying)|identif(?:y|ies|ied|ying)"
    r"|(?:which|that|this)\s(?:is|was)|i\.\s?e\.,?|namely|arriv(?:e|es|ed|ing)\sat|end(?:s|ed|ing)?\sup\s(?:with|at)"
    r"|I(?:(?:['’]d|\swould)\s(?:say|answer|go\sfor)|\s(?:get|got|say))|should\s(?:say|give|get)|(?:this|that|which)\sgives"
    r"|indeed|(?:expected|ground\struth)\s?:?)"
)
_INSTEAD_OF = r"(?:not|replac(?:e|ing)|chang(?:e|ing)|switch(?:ing)?\sfrom|instead\sof|rather\sthan)"
_ALL_BUT = r"(?:(?:all|every(?:thing|\soption)|any(?:thing|\soption)?)\s(?:but|except(?:\sfor)?|other\sthan|besides))"
_DENIED = r"(?<!not )(?<!n['’]t )(?<!never )"
# Behind another of a reaction or a chain stands what comes of it.
_NO_REACTION = r"(?<![+→⇌]\s[A-Z]\s)"
_LEFT_OVER = r"(?i:it\sis|remains)"
_SOLE = r"(?i:alone|is\sthe\s(?:one|only))\b"
# What is not the peer's own value, and the option that it is of in brackets, which alone are taken out.
_VALUE_OF = (
    r"(?<!your )(?<!their )(?<!peer['’]s )\b(?:value|result|answer|g(?:iv(?:es?|ing)|ave)|yield(?:s|ed|ing)?"
    r"|g[eo]t(?:s|ting)?|obtain(?:s|ed)?|find(?:s|ing)?|equals?|is|was|be|becomes?|reach(?:es)?|comes\sto|makes?)\b"
)
_OF_IT = r"(?:(?!\s(?:not|never|too|neither|between|either)\b)(?:[^()\[\].;:!?\n]|(?<=\d)\.(?=\d))){1,60}?"
_NUMBER_OF_IT = (
    r"(?:\s(?:of|about|around|roughly|approximately))?\s{0,2}[$\\(~≈+−-]{0,4}\d[^\s()\[\];:!?]{0,20}"
    r"(?:\s[^\s()\[\]\d.,;:!?]{1,12}){0,2}"
)


def _in_brackets(named: str) -> str:
    return rf"(?P<cut>\s?[(\[]\s?{named}[*_$]{{0,3}}(?P<bare>[A-J])[*_$]{{0,3}}\s?[)\]]){_ENDS}"


_BEGINS = r"(?:\A|(?<=\n)|(?<=[.!?:;,]\s)|(?<=\b[Ss]o\s)|(?<=\b(?i:and)\s)|(?<=\b(?i:that)\s)|(?<=\b(?i:only)\s))"


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    option = rf"(?:{_WORD})?"
    return tuple(
        re.compile(source)
        for source in (
            rf"\s?,?\s?{_DENIED}\b(?i:{_POINTS})\s{{1,4}}{_POINTED}",
            rf"\s?{_NO_REACTION}(?:=>|[→⇒⟹])\s{{0,4}}{_POINTED}",
            rf"\s?,?\s?\b(?i:{_INSTEAD_OF})\s{{1,4}}{option}{LETTER}\s{{0,2}},?\s(?i:but|with|by|to|into)\s{{1,4}}"
            rf"(?i:rather\s)?{option}(?P<bare>{LETTER})",
            rf"\s?,?\s?\b(?i:{_ALL_BUT})\s{{1,4}}{option}(?P<bare>{LETTER})(?=\s(?i:is|are|can|fails?|has|have)\b)",
            rf"\s?\b{option}{LETTER}\s(?i:(?:should|must)\s(?:be|have\sbeen|become))\s{option}(?P<bare>{LETTER}){_ENDS}",
            rf"\s?(?<![\w.]){_WORD}(?P<named>{LETTER})\s(?:{_LEFT_OVER}\b|{_SOLE})",
            rf"\s?(?<![\w.])(?P<bare>{LETTER})\s{_LEFT_OVER}{_ENDS}",
            rf"\s?{_BEGINS}(?P<bare>{LETTER})\s{_SOLE}",
            rf"\s?<(?i:final_?answer|ans|choice|option)>\s{{0,4}}(?P<bare>{LETTER})[^<>]{{0,30}}(?:</\w{{1,15}}>)?",
            rf"(?i:{_VALUE_OF}){_OF_IT}{_in_brackets(_WORD)}",
            rf"(?:(?i:{_VALUE_OF})|[=≈]){_NUMBER_OF_IT}{_in_brackets('')}",
            rf"\s?[\[{{\"'](?i:answer|choice|option)[\"'\]]\s?:?\s?(?P<bare>{LETTER})",
        )
    )


def split_letter_reveals(text: str, answer: str) -> tuple[str, tuple[str, ...]]:
    """(the feedback without what points at the right option, what was taken out). answer: its letter."""
    removed: list[str] = []
    while spans := _reveals(shadow(text), answer):
        removed += [text[start:end] for start, end in spans]
        text = "".join(text[start:end] for start, end in between(spans, len(text)))
    return text, tuple(removed)


def _reveals(seen: str, answer: str) -> list[tuple[int, int]]:
    found = (match for pattern in _patterns() for match in pattern.finditer(seen))
    return merged(_span(seen, match) for match in found if _says(match, answer))


def _span(seen: str, match: re.Match[str]) -> tuple[int, int]:
    return match.span("cut") if "cut" in match.re.groupindex else with_its_stop(seen, *match.span())


def _says(match: re.Match[str], answer: str) -> bool:
    groups = match.groupdict()
    written = groups.get("named") or groups["bare"]
    # Letters of markup stand beside others: `\textbf{D}`, `<b>D</b>`.
    return re.search(rf"(?<![A-Za-z<\\/]){answer}(?![A-Za-z>])", written, re.IGNORECASE) is not None
