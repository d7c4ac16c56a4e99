"""What gives the option letter away, as patterns. Case of the letter matters, case of the keywords does not.

English has its patterns here; those of other languages are put together from their row in `languages.py`.

Every repetition is bounded, so matching is linear in the text. Patterns run on the length-preserving shadow of
`sanitizing.shadow`. The paper removes boxed letters, bold letters, "Final answer: X" and "The correct option is X";
the rest closes leaks seen in such feedback. A letter is one of A-J (sets have up to ten options), in upper case,
or in any case inside brackets, so that the article "a" is none; nor is a symbol (`B_0`, `B-field`, `\\mathbf{B}`), or a
capital that begins a clause as a word of its own (`The answer is I think too small`). Letters that look like Latin
ones count as those (`scripts.LOOK_ALIKES`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from shared.method.boxes import boxed_letters
from shared.method.languages import LANGUAGES, Language, loose
from shared.method.letters import HYPHEN, LATIN_LETTER, LETTER, SYMBOL_GOES_ON
from shared.method.needles import Needled, lowered
from shared.method.places import Leads, Led, Placed
from shared.method.redaction import Span, merged
from shared.method.scripts import LOOK_ALIKES

_MORE = rf"(?:\s{{0,2}}(?:/|&|\bor\b|\band\b)\s{{0,2}}{LETTER}(?!\s(?:is|are|was|has|can|would|should)\b)){{0,4}}"
# The option's own text after its letter ("D: 3.96") reveals as much as the letter.
_VALUE = (
    r"(?:[ \t]{0,2}:[ \t]{0,2}(?:[^\s.,;:!?。、،؟]|(?<=\d)[.,](?=\d)"
    r"|[ \t](?!(?:because|since|as|which|but|while|though|so|and)\b)){1,120})?"
)
_ORDINAL = (
    r"(?:the\s)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|1st|2nd|3rd|4th|5th|6th|7th"
    r"|8th|9th)\s"
    r"(?:answer\s)?(?:option|choice|alternative|answer)\b"
)
# A, E and I are words, too: one that more of its clause follows is the letter only before what goes on from an answer.
_GOES_ON = (
    "because|since|as|and|or|for|given|here|but|not|which|while|when|whereas|due|so|in|if|with|by|on|at|from|to|instead"
    "|rather|is|are|was|though|although|per|via|where|that|then|hence|thus|after|under|without|only|too|again|now|the"
    "|car|parce|puisque|et|est|weil|denn|da|und|ist|porque|pues|ya|y|es|pois|e|é|perché|poiché|è|ed?"
)
_NO_WORD = rf"(?![AEI][ \t]{{1,2}}(?!(?:{_GOES_ON})\b)[a-zà-ž])"
_TARGET = rf"(?:{_NO_WORD}{LETTER}{_MORE}{_VALUE}|(?i:{_ORDINAL}))"

_LEAD = (
    r"(?<!\w)[*_]{0,3}(?:(?:so|thus|hence|therefore|overall|ultimately|finally|consequently|clearly|in conclusion"
    r"|in summary)\b\s{0,2},?\s{1,2})?(?:(?:the|your|my|its|their|our|this)\s{1,3})?"
)
_ADJECTIVE = (
    r"(?:final|correct|right|best|true|proper|expected|intended|actual|only|closest|nearest|likely"
    r"|most\s(?:likely|appropriate|plausible|accurate|suitable))"
)
_JUDGED = r"(?:correct|right|best|closest|nearest|intended|expected|true|most\s(?:likely|appropriate|plausible))"
_NOUN = r"(?:answers?|ans\.?|option|choice|selection|pick|alternative|letter)"
_SCOPE = (
    r"(?:\s(?:here|overall|choice|option|letter|(?:to|for)\s(?:this|the)\s(?:question|problem)"
    r"|among\s(?:these|the\soptions)|(?:from|of)\s(?:these|the\s(?:options|choices))))?"
)
_ADVERBS = (
    r"(?:therefore|thus|hence|clearly|indeed|simply|actually|then|probably|definitely|really|obviously|of\scourse"
    r"|certainly|however|instead|consequently|ultimately|(?:most\s)?likely|in\sfact|only)"
)
_ADVERB = rf"(?:{_ADVERBS},?\s{{1,3}})?"
_ASIDE = rf"(?:\s?,\s{{1,2}}{_ADVERBS}\b\s?,?)?"
_BE = rf"{_ADVERB}(?:be|have\s{{1,3}}been)"
_BEING = (
    r"(?:(?:(?:would|should|must|will|could|may|might|can|has\sto|ought\sto|seems\sto|appears\sto|needs\sto)"
    rf"\s{{1,3}}{_BE}|is|are|was)\b|remains\b)"
)
_CONNECT = (
    rf"(?:(?:['’]s\s{{0,3}}|{_ASIDE}\s{{1,4}}{_ADVERB}{_BEING}{_ASIDE})[*_]{{0,3}}\s{{0,2}}:?"
    r"|[*_]{0,3}\s{0,3}(?::|=>?|->|→))[*_]{0,3}\s{0,4}"
)
_NAMED = r"(?:(?:the\s)?(?:option|choice|answer|letter|alternative)\s{1,3})?"
_VERDICT_NOUN = r"(?:answer|option|choice|one|fit|match|selection|solution|alternative|pick)"
_CLAUSE_END = r"(?=\s{0,2}(?:[.,;:!?)*]|\Z)|\s{1,2}(?:because|since|here|as|and|for|given)\b)"
_HELD_CORRECT = (
    rf"(?:the\s{{1,3}}(?:only\s)?{_JUDGED}[\s-]{{1,3}}{_VERDICT_NOUN}\b|the\s{{1,3}}answer\b"
    rf"|(?:the\s)?(?:correct|right|best){_CLAUSE_END}|the\s{{1,3}}only\s{{1,3}}{_VERDICT_NOUN}\s{{1,3}}"
    r"(?:left|possible|remaining|that\s(?:works|fits|matches|remains|holds))\b)"
)
_STOP = r"(?=\s{0,2}(?:[.,;:!?)*]|\Z)|\s{1,2}(?:because|since)\b)"
_CHOOSES = "select(?:s|ed)?|choos(?:e|es)|chose|pick(?:s|ed)?|answer(?:s|ed)?"
_AN_ANSWER = r"(?:answer|correct|right|best|solution)\b"
# A quantity has such a name, too: B = 2 T, B as the field.
_NO_SYMBOL = r"(?!\s{0,2}=|\s{1,2}as\s(?!(?:the\s|an?\s)?(?:final\s)?(?:answer|correct|right|best|solution)))"
_FITS = (
    r"(?:works|fits|matches|remains|holds|survives|qualifies|satisfies|makes\ssense|stands|agrees"
    r"|(?:is|can\sbe|could\sbe)\s(?:left|possible|consistent|correct|right|valid|true|plausible|the\sanswer))\b"
)
_NOT_OBJECT = "".join(rf"(?<!\b{word}\s)" for word in ["of", "in", "to", "at", "on", "by", "for", "with", "from"])
_NOT_WRONGLY = "".join(
    rf"(?<!{word}\s)" for word in ["wrongly", "incorrectly", "mistakenly", "falsely", "not", "n['’]t"]
)
_SENTENCE = r"(?:\A|(?<=[.!?;:\n。؟]\s)|(?<=[\n。]))"
# `a field that is B` tells of the field.
_THAT_IS = rf"(?:{_SENTENCE}|(?<=\d,\s)" + "".join(rf"|(?<=\b{word}\s)" for word in ["because", "since", "and", "but"])
_THAT_IS += r")that\sis"

_BOX_OPEN = (
    r"\\(?:boxed|fbox|framebox)\s{0,3}\{\s{0,3}(?:\\(?![dt]?frac|vec|hat|over)[A-Za-z]{1,12}\s{0,2}\{\s{0,2}|[{(\[]\s{0,2}){0,3}"
    r"(?:(?:the\s)?(?:option|answer|choice)\s{0,2}:?\s{0,2})?"
)
_BOX = (
    rf"{_BOX_OPEN}[A-Ja-j](?!{SYMBOL_GOES_ON}|\s{{0,2}}[=+*/\\<>])\s{{0,2}}[)\].}}]{{0,4}}"
    r"(?:\s{0,2}[:.)]\s{0,2}[^{}\n$]{0,80})?\s{0,2}\}{0,3}"
)
_BOLD_INSIDE = r"(?:[A-J]|[(\[][A-Ja-j][)\]])(?:[.:,;)]|[.:)]\s?[^*_<>\n]{1,80})?"

_MARKUP = (
    # \boxed{B}, $\boxed{\text{B}}$
    rf"(?P<dollar>\${{1,2}})\s{{0,2}}{_BOX}\s{{0,2}}(?P=dollar)|{_BOX}",
    # <answer>B</answer>
    r"<(?i:answer)>(?=[^<]{0,200}[^\W_])[^<]{1,200}</(?i:answer)>",
)
_SOURCES = (
    # \boxed B
    r"\\boxed\s{1,2}[A-J](?![\w\\^])",
    # **B**, __B__, <b>B</b>, \textbf{B}
    rf"(?<![\w*])(?P<stars>\*{{2,3}}){_BOLD_INSIDE}(?P=stars)(?![\w*])",
    rf"(?<!\w)__{_BOLD_INSIDE}__(?!\w)",
    rf"<(?P<bold>(?i:b|strong))>\s{{0,2}}{_BOLD_INSIDE}\s{{0,2}}</(?P=bold)>",
    r"\\textbf\s?\{\s?(?:[A-J]|[(\[][A-Ja-j][)\]])[.:]?\s?\}",
    # <answer>B
    rf"<(?i:answer)>\s{{0,8}}{LETTER}(?:\s{{0,8}}</(?i:answer)>)?",
    # a sentence of its own: C works.
    rf"{_SENTENCE}(?i:option\s)?{LETTER}(?i:\s(?:works|fits|matches))(?=[.!]|\s{{0,4}}\Z)",
    # #### C; a last line that is only the letter; C ✓
    rf"(?<!\S)#{{4}}[ \t]{{0,2}}{LETTER}[.!]?(?m:[ \t]{{0,3}}$)",
    rf"(?:\A|(?<=[.!?]\s)|(?<=\n))[ \t]{{0,3}}{LETTER}[.!]?\s{{0,4}}\Z",
    rf"(?<![\w\\{{'’{HYPHEN}]){LETTER}\s{{0,2}}(?:[✓✔✅☑]|(?i:[(\[](?:the\s)?(?:correct|right)(?:\s(?:one|answer|option|choice))?[)\]]))",
    rf"[✓✔✅☑]\ufe0f?\s{{0,2}}(?i:{_NAMED}){_TARGET}{_STOP}",
    # B is the correct answer; option B fits best
    rf"(?<![\w\\{{'’{HYPHEN}]){LETTER}(?i:[.:]?\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}{_HELD_CORRECT})",
    rf"(?i:(?<!\w)(?:option\s{{1,3}})?)(?<!\w){LETTER}(?i:\s{{1,3}}(?:fits|matches|works)\s{{1,3}}best\b)",
)
_LED = (
    # the answer is B; correct option: B
    (
        rf"{_LEAD}(?:{_ADJECTIVE}[\s-]{{1,3}}){{0,3}}{_NOUN}{_SCOPE}{_CONNECT}{_ADVERB}{_NAMED}",
        _TARGET,
    ),
    # the best fit is B; the correct reactant is B
    (
        rf"{_LEAD}(?:{_JUDGED}[\s-]{{1,3}})(?:[a-z]{{2,20}}[\s-]{{1,3}}){{0,2}}[a-z]{{2,20}}{_CONNECT}{_ADVERB}{_NAMED}",
        _TARGET,
    ),
    # final answer B; the correct option (B); the correct answer, which is B
    (
        rf"{_LEAD}(?:final\s{{1,3}}answer|{_JUDGED}\s{{1,3}}(?:answer|option|choice|alternative|letter))"
        rf"[*_]{{0,3}}\s{{0,2}}[,–—-]?\s{{1,4}}[(\[]?(?:(?:which\sis|namely|i\.e\.),?\s{{1,3}})?{_NAMED}",
        _TARGET,
    ),
    # Ans C; Correct: C; solution: C
    (r"(?<!\w)ans\.?\s{1,3}", rf"{_TARGET}{_STOP}"),
    (
        rf"{_LEAD}(?:solution|verdict|conclusion|(?:answer\s)?key|correct|right){_CONNECT}{_NAMED}",
        rf"{_TARGET}{_STOP}",
    ),
    # choose B
    (
        r"(?<!not )(?<!n't )(?<!n’t )(?<!never )(?<!\w)(?:so\s|please\s)?"
        r"(?:choose|select|pick|opt\sfor|go\swith|settle\son|should\shave\s(?:chosen|selected|picked|answered))"
        rf"\s{{1,4}}{_NAMED}",
        _TARGET,
    ),
    # correctly identifies B; change your answer to D; wrongly chose A instead of C
    (
        rf"(?<!\w)(?:correctly|rightly|properly)\s{{1,3}}(?:{_CHOOSES})\s{{1,4}}{_NAMED}",
        rf"(?:{_NO_WORD}{LETTER}{_NO_SYMBOL}{_MORE}{_VALUE}|(?i:{_ORDINAL}))",
    ),
    # What is identified may be a quantity or an element, of which more is said then.
    (
        r"(?<!\w)(?:correctly|rightly|properly)\s{1,3}(?:identif(?:y|ies|ied)|conclude[sd]?)\s{1,4}"
        rf"(?:that\s{{1,3}})?{_NAMED}",
        rf"{LETTER}{_MORE}(?i:(?=\s{{0,2}}(?:[.;!?)]|\Z)|\s(?:as|to\sbe|is)\s(?:the\s)?(?:final\s)?{_AN_ANSWER}))",
    ),
    # selected C, which is correct
    (
        rf"(?<!\w)(?:{_CHOOSES}|identif(?:y|ies|ied)|option|choice)\s{{1,4}}{_NAMED}",
        rf"{LETTER}(?i:\s{{0,2}},?\s{{1,3}}(?:which|and\s(?:that|this|it))\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}{_HELD_CORRECT})",
    ),
    (
        r"(?<!\w)(?:change|correct|revise|update|switch)\s{1,3}(?:(?:your|the|their|its|this)\s{1,3})(?:final\s)?"
        rf"(?:answer|choice|selection|option)\s{{1,3}}(?:from\s{{1,3}}{_NAMED}[A-J]\s{{1,3}})?to\s{{1,3}}{_NAMED}",
        rf"{_TARGET}{_STOP}",
    ),
    (
        rf"(?<!\w)(?:{_CHOOSES})\s{{1,4}}{_NAMED}[A-J]\s{{1,3}}(?:instead\sof|rather\sthan|over)\s{{1,3}}{_NAMED}",
        rf"{_TARGET}{_STOP}",
    ),
    # identifies B as the correct answer; makes B the right choice; makes B correct
    (
        rf"{_NOT_WRONGLY}(?<!\w)(?!(?:option|choice|answer|letter|alternative|the|not)\b)[a-z]{{2,20}}\s{{1,3}}{_NAMED}",
        rf"{LETTER}(?i:\s{{1,3}}(?:(?:as|to\s{{1,3}}be)\s{{1,3}})?the\s{{1,3}}(?:only\s)?{_JUDGED}[\s-]{{1,3}}{_VERDICT_NOUN}\b)",
    ),
    (
        rf"{_NOT_WRONGLY}(?<!\w)(?:mak(?:es?|ing)|made)\s{{1,3}}{_NAMED}",
        rf"{LETTER}(?i:\s{{1,3}}(?:the\s{{1,3}}answer\b|correct{_CLAUSE_END}))",
    ),
    # your answer, B, is correct
    (
        r"(?<!\w)(?:your|the|their|its|this)\s(?:final\s)?(?:answer|choice|selection|pick|option)\s{0,2}[,(–—-]\s{0,2}"
        rf"{_NAMED}",
        rf"{LETTER}(?i:\s{{0,2}}[,)–—-]?\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}{_HELD_CORRECT})",
    ),
    # it must be B; so it is B
    (
        r"(?<!\w)(?:(?:so|thus|hence|therefore|then)\b,?\s{1,2})?(?:it|this|that|which)\s{1,3}"
        rf"(?:must|has\sto|have\sto|should|can\sonly|would|will|ought\sto)\s{{1,3}}{_BE}\s{{1,3}}{_NAMED}",
        rf"{_TARGET}{_CLAUSE_END}",
    ),
    (
        rf"(?<!\w)(?:so|thus|hence|therefore|then)\b,?\s{{1,2}}(?:it\sis|it['’]s|that\sis)\s{{1,3}}{_NAMED}",
        rf"{_TARGET}{_CLAUSE_END}",
    ),
    (
        rf"(?<!\w){_NOT_OBJECT}(?:it(?:['’]s|\sis|\swas)|that['’]s|this\sis|{_THAT_IS}){_ASIDE}\s{{1,3}}"
        rf"{_ADVERB}{_NAMED}",
        rf"{_TARGET}{_STOP}",
    ),
    (rf"{_SENTENCE}(?:so|thus|hence|therefore)\b[,:]?\s{{1,2}}{_NAMED}", rf"{_TARGET}{_STOP}"),
    # a sentence of its own: Answer (C). Option C.
    (
        rf"{_SENTENCE}[*_]{{0,3}}(?:the\s)?(?:final\s)?(?:ans\.?|answer|option|choice)[*_]{{0,3}}\s{{0,2}}[–—-]?\s{{0,3}}",
        rf"{LETTER}(?=\s{{0,2}}(?:[.!]|\Z))",
    ),
    # only C works; that leaves C; mark C
    (rf"(?<!\w)(?:only|just)\s{{1,3}}{_NAMED}", rf"{LETTER}(?i:\s{{1,3}}{_FITS})"),
    (
        r"(?<!\w)(?:(?:this|that|which)\s)?(?:leav(?:es?|ing)|left\swith|go\sfor|tick|circle|mark)\s{1,3}"
        rf"(?:(?:only|just|us\swith)\s)?{_NAMED}",
        rf"{_TARGET}{_STOP}",
    ),
    # option B is correct
    (
        rf"{_LEAD}(?=(?:option|choice|answer|letter|alternative)\s|{_ORDINAL})",
        rf"(?:(?i:(?:option|choice|answer|letter|alternative)\s{{1,3}}){LETTER}|(?i:{_ORDINAL}))"
        rf"(?i:\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}(?:{_HELD_CORRECT}|correct(?![\w-])))",
    ),
)
_LATIN_ARTICLE = r"(?:(?:la|le|el|il|lo|die|der|das|a|o|ma|ta|tu|su|sa)\s{1,2}|l['’])?"
CLAUSE_ENDS = (
    r"(?=\s{0,2}(?:[.,;:!?)*\n。、।؟،]|\Z|因为|因為|所以|ので|から)"
    r"|\s{0,2}(?:car|parce|weil|denn|da|porque|pues|perché|poiché|так|потому|поскольку|क्योंकि|لأن)\b)"
)
# Letters that Russian and Arabic writers set for the Latin ones are words, too, so only where a clause ends.
_OWN_LETTERS = {"CYRILLIC": "АВСЕН", "ARABIC": "أابجده"}


def named_answer(language: Language) -> str:
    """The pattern of all that stands before an answer: `la respuesta correcta es la opción `."""
    return _named(language, language.answer)


def named_correct(language: Language) -> str:
    """The same of what stands for the correct one: `la correcta es la `."""
    return _named(language, language.correct)


def pointed_at(language: Language) -> str:
    """The pattern of what points at an answer: `c'est la `."""
    return loose(
        rf"(?i:{edge_of_word(language)}(?:{language.it})\s{{0,3}}(?:(?:{language.option})\s{{0,2}}:?\s{{0,2}})?)"
    )


def only_one(language: Language) -> tuple[str, str]:
    """The patterns of what stands around the only answer that fits; empty ones if the language says it otherwise."""
    if not language.only:
        return "", ""
    before = rf"(?i:{edge_of_word(language)}(?:{language.only})\s{{0,3}}(?:(?:{language.option})\s{{0,2}})?)"
    return loose(before), loose(rf"\s{{0,3}}(?i:{language.fits})") + closing_words(language)


def held_right(language: Language) -> str:
    """The pattern of what follows an answer that is called right: ` es la respuesta correcta`."""
    return loose(rf"\s{{0,3}}(?i:{language.right})") + closing_words(language)


def closing_words(language: Language) -> str:
    """The pattern of what may close a clause that names an answer; fails where it says that it is none."""
    denied = rf"(?!\s{{0,3}}(?:{language.negation}))" if language.negation else ""
    return loose(rf"{denied}(?i:{language.tail})")


def edge_of_word(language: Language) -> str:
    """Nothing where blanks do not tell words apart."""
    return r"(?<!\w)" if set(language.scripts) <= {"LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI"} else ""


def _named(language: Language, what: str) -> str:
    return loose(
        rf"(?i:{_edge(language)}(?:{what})[*_]{{0,3}}"
        rf"(?:\s{{0,3}}(?:{language.being})\s{{0,2}}:?|\s{{0,2}}(?::|=>?|->|→|[-–—]\s)){{1,2}}[*_]{{0,3}}\s{{0,3}}"
        rf"(?:(?:{language.option})\s{{0,2}}:?\s{{0,2}})?)"
    )


def _edge(language: Language) -> str:
    return edge_of_word(language) + (_LATIN_ARTICLE if "LATIN" in language.scripts else "")


def _sources_in(language: Language) -> Iterator[tuple[str, str]]:
    """Of its patterns: what leads to the letter, "" where that says little, and the rest."""
    own = "".join(_OWN_LETTERS.get(script, "") for script in language.scripts)
    letter = rf"(?:{LATIN_LETTER}|[{own}](?!\w){CLAUSE_ENDS})" if own else LATIN_LETTER
    inside = rf"(?:{LATIN_LETTER}|[{own}](?!\w))" if own else LATIN_LETTER
    ordinal = loose(rf"(?i:{language.ordinal})")
    target = rf"(?:{ordinal}|{_NO_WORD}{letter}{_VALUE})"
    option = loose(rf"(?i:(?:{language.option})\s{{0,3}})")
    closing = closing_words(language)
    yield named_answer(language), rf"{target}{closing}"
    start = rf"(?<![A-Za-z0-9\\{{'’{HYPHEN}]){_edge(language)}"
    yield "", rf"{start}(?:{option}{inside}|{letter}|{ordinal}){held_right(language)}{CLAUSE_ENDS}"
    if language.choose:
        yield loose(rf"(?i:{_edge(language)}(?:{language.choose}))"), rf"\s{{0,3}}{option}?{target}"
    yield rf"(?:{named_correct(language)}|{pointed_at(language)})", rf"{target}{closing}{CLAUSE_ENDS}"
    before, behind = only_one(language)
    if before:
        yield before, rf"{inside}{behind}"


_ANY_OWN = "".join(_OWN_LETTERS.values())
_PLACE = re.compile(
    rf"[A-J(\[{{{_ANY_OWN}]"
    rf"(?:(?<=[A-J])(?![A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f])|(?<=[(\[{{])\s?[a-j]\s?[)\]}}]|(?<=[{_ANY_OWN}])(?!\w))"
)
"""All that one of the patterns may take for a letter of an option."""


@dataclass(frozen=True)
class _Patterns:
    """Patterns, each of whose matches holds a letter or an ordinal.

    ordinals: finds the ordinals. near: looked for around those. led: the same of patterns with a lead, where `leads`
    finds it.
    """

    ordinals: tuple[Needled, ...]
    near: tuple[Placed, ...]
    led: tuple[Led, ...]
    leads: Leads

    def spans(self, text: str, letters: list[Span]) -> Iterator[Span]:
        """Of all matches. letters: where they may be in the text."""
        words = lowered(text)
        if words is None:
            for pattern in (*self.near, *self.led):
                yield from pattern.spans(text, None)
            return
        places = merged([*letters, *(span for each in self.ordinals for span in each.stretches(words))])
        if not places:
            return
        for pattern in self.near:
            if pattern.may_match(words):
                yield from pattern.spans_near(text, places)
        if any(pattern.may_match(words) for pattern in self.led):
            for pattern, starts in self.leads.starts(words, places).items():
                yield from pattern.spans_at(text, starts)


# Compiled when the first text comes: a fifth of a second, which commands and services that clean none do without.
@cache
def _markup() -> tuple[Needled, ...]:
    return tuple(map(Needled, _MARKUP))


@cache
def _patterns(script: str) -> _Patterns:
    """Of the languages that are written in it."""
    rows = [each for each in LANGUAGES if each.answer and script in each.scripts]
    sources = [pair for language in rows for pair in _sources_in(language)]
    ordinals = [loose(rf"(?i:{language.ordinal})") for language in rows]
    if script == "LATIN":
        english = [(f"(?i:{lead})", rest) for lead, rest in _LED]
        sources = [*(("", source) for source in _SOURCES), *english, *sources]
        ordinals = [rf"(?i:{_ORDINAL})", *ordinals]
    led = [Led(lead, rest) for lead, rest in sources if lead]
    told = tuple(each for each in led if "" not in each.beginnings)
    near = [Placed(rest) for lead, rest in sources if not lead] + [each for each in led if "" in each.beginnings]
    # Rows of one script have one edge.
    return _Patterns(tuple(map(Needled, ordinals)), tuple(near), told, Leads(told, edge_of_word(rows[0])))


def revealing_spans(seen: str) -> Iterator[Span]:
    """Where a text names the answer, in no order, overlapping. seen: the shadow of the text."""
    latin = seen if seen.isascii() else seen.translate(LOOK_ALIKES)
    words = lowered(latin)
    for needled in _markup():
        yield from needled.spans(latin, words)
    yield from boxed_letters(latin)
    letters = [found.span() for found in _PLACE.finditer(latin)]
    yield from _patterns("LATIN").spans(latin, letters)
    # Most texts are ASCII, and two thirds of the time would go into scripts that they do not have.
    if not seen.isascii():
        for script in ("DEVANAGARI", "ARABIC", "CJK", "HANGUL"):
            yield from _patterns(script).spans(latin, letters)
        yield from _patterns("CYRILLIC").spans(seen, [found.span() for found in _PLACE.finditer(seen)])
