"""What gives the option letter away, as patterns. Case of the letter matters, case of the keywords does not.

Every repetition is bounded, so matching is linear in the text. Patterns run on the length-preserving shadow of
`sanitizing.shadow`. The paper removes boxed letters, bold letters, "Final answer: X" and "The correct option is X";
the rest closes leaks seen in such feedback. A letter is one of A-J (sets have up to ten options), in upper case,
or in any case inside brackets, so that the article "a" is none; nor is a symbol (`B_0`, `B-field`, `\\mathbf{B}`).
"""

import re

_HYPHEN = "‐‑–−-"
_SYMBOL_GOES_ON = rf"[^\W_]|_[^\W_]|_[{{\\]|\^|['’][^\W_]|[{_HYPHEN}][^\W_]|\s{{0,2}}=\s{{0,2}}[^\s\d.+{_HYPHEN}]"
_WRAP_OPEN = r"(?:[*_`\"'“”‘’$]|\\(?:text|textbf|mathrm|mathbf|boxed)\s?\{|\{){0,4}"
_WRAP_CLOSE = r"[*_`\"'“”‘’$}]{0,6}"
_BRACKETED = r"[(\[{]\s?[A-Ja-j]\s?[)\]}]"
_LETTER = rf"{_WRAP_OPEN}(?:{_BRACKETED}|[A-J](?!{_SYMBOL_GOES_ON})[)\]]?){_WRAP_CLOSE}"
_MORE = rf"(?:\s{{0,2}}(?:/|&|\bor\b|\band\b)\s{{0,2}}{_LETTER}(?!\s(?:is|are|was|has|can|would|should)\b)){{0,4}}"
# The option's own text after its letter ("D: 3.96") reveals as much as the letter.
_VALUE = (
    r"(?:[ \t]{0,2}:[ \t]{0,2}(?:[^\s.,;:!?]|(?<=\d)[.,](?=\d)"
    r"|[ \t](?!(?:because|since|as|which|but|while|though|so|and)\b)){1,120})?"
)
_TARGET = rf"{_LETTER}{_MORE}{_VALUE}"

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
    r"\\(?:boxed|fbox|framebox)\s{0,3}\{\s{0,3}(?:\\[A-Za-z]{1,12}\s{0,2}\{\s{0,2}|[{(\[]\s{0,2}){0,3}"
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
    # option B is correct; B is the correct answer
    rf"(?i:{_LEAD}(?:option|choice|answer|letter|alternative)\s{{1,3}}){_LETTER}"
    rf"(?i:\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}(?:{_HELD_CORRECT}|correct(?![\w-])))",
    rf"(?<![\w\\{{'’{_HYPHEN}]){_LETTER}(?i:\s{{1,3}}{_BEING}\s{{1,3}}{_ADVERB}{_HELD_CORRECT})",
    rf"(?i:(?<!\w)(?:option\s{{1,3}})?)(?<!\w){_LETTER}(?i:\s{{1,3}}(?:fits|matches|works)\s{{1,3}}best\b)",
)

REVEALS = tuple(re.compile(source) for source in _SOURCES)
