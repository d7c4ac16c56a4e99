"""Words without which a pattern cannot match."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.needles import Needled, lowered
from shared.method.reveals import _markup, _patterns, revealing_spans

LETTERS = st.text(alphabet="abB", min_size=1, max_size=3)
OF_PARTS = st.recursive(
    LETTERS | st.just("[abc]") | st.just(r"\s{1,2}"),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda each: f"(?:{'|'.join(each)})")
        | inner.map(lambda each: f"(?i:{each})")
        | inner.map(lambda each: f"(?:{each})?")
        | inner.map(lambda each: f"(?P<x>{each})" if "(?P" not in each else each)
        | inner.map(lambda each: f"(?:{each}){{2,3}}")
        | inner.map(lambda each: f"(?:{each})+?")
        | inner.map(lambda each: f"(?!{each}){each[:0]}")
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("source", "needles"),
    [
        ("(?i:The answer) is", [{"the answer"}, {" is"}]),
        ("(?:choose|pick) [A-J]", [{"pick", "choose"}]),
        ("(?:the )?best", [{"best"}]),
        ("(?:ab|c)d", []),
        ("#{4}[A-J]", [{"####"}]),
        ("soluci[oó]n", [{"soluci"}]),
        ("réponse", [{"réponse"}]),
        ("(?:答|正解)は", [{"答", "正解"}, {"は"}]),
        ("верно", [{"ерн"}]),
        ("(?<!not )(?=never )[A-J]", []),
        ("(?P<stars>[*]{2})[A-J](?P=stars)", [{"**"}]),
    ],
)
def test_what_a_pattern_cannot_do_without(source: str, needles: list[set[str]]) -> None:
    assert sorted(map(sorted, Needled(source).needles)) == sorted(map(sorted, needles))


def test_only_four_letters_beside_them_count_as_ascii_ones_without_regard_to_case() -> None:
    every = "".join(chr(code) for code in range(128, sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    found = set(re.findall("(?i:[a-z])", every))
    assert len(found) == 4 and all(lowered(letter) is None for letter in found)
    assert lowered("Réponse ²→") == "réponse ²→"


@given(st.data(), OF_PARTS)
def test_whatever_matches_holds_a_needle_of_each_set(data: st.DataObject, source: str) -> None:
    try:
        matching = re.compile(source)
    except re.error:
        return  # two groups of one name
    text = data.draw(st.from_regex(matching, alphabet=st.characters(max_codepoint=126)))
    needled = Needled(source)
    assert list(needled.spans(text, text.lower())) == [found.span() for found in matching.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        "The correct option is B. Choose C, so it must be (d).",
        "**B** __C__ <b>D</b> \\boxed{A} \\textbf{B} <answer>C</answer> #### D",
        "It is B because only C works. Mark D. That leaves A.\nB",
        "La respuesta correcta es la B. La réponse est C. Die Antwort ist D. La risposta è A. A resposta é B.",
        "Elige la C. Choisis B. Nimm D. Scegli A. Escolha B. C'est la B. Es ist C.",
        "THE ANSWER IS B. OPTION C IS CORRECT. ANS C.",
    ],
)
def test_each_pattern_finds_with_its_needles_what_it_finds_without(text: str) -> None:
    for needled in (*_markup(), *_patterns("LATIN").near, *_patterns("LATIN").led):
        assert list(needled.spans(text, lowered(text))) == [found.span() for found in needled.pattern.finditer(text)]
    assert list(revealing_spans(text))
