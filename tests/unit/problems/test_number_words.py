"""Integers as words: which words are which number, and where a word is another one's part."""

import pytest

from shared.method.languages import LANGUAGES
from shared.problems.number_words import LAST, NUMERALS, spelled_spans

WORDS = [
    *[
        ("0", "zero"),
        ("12", "Twelve"),
        ("21", "twenty-one"),
        ("21", "twenty one"),
        ("144", "one hundred and forty-four"),
    ],
    *[
        ("12", "doce"),
        ("22", "veintidós"),
        ("22", "veintidos"),
        ("45", "cuarenta y cinco"),
        ("116", "ciento dieciséis"),
    ],
    *[("17", "dix-sept"), ("71", "soixante et onze"), ("80", "quatre-vingts"), ("95", "quatre-vingt-quinze")],
    *[("12", "doze"), ("21", "vinte e um"), ("100", "cem"), ("144", "cento e quarenta e quatro")],
    *[("12", "dodici"), ("21", "ventuno"), ("28", "ventotto"), ("33", "trentatré"), ("180", "centottanta")],
    *[("12", "zwölf"), ("21", "einundzwanzig"), ("30", "dreissig"), ("144", "einhundertvierundvierzig")],
    *[("12", "двенадцать"), ("12", "двенадцати"), ("21", "двадцать один"), ("144", "сто сорок четыре")],
    *[("12", "बारह"), ("45", "पैंतालीस"), ("99", "निन्यानवे"), ("112", "एक सौ बारह")],
    *[("12", "اثنا عشر"), ("21", "واحد وعشرون"), ("80", "ثمانون"), ("144", "مائة و أربعة و أربعون")],
    *[
        ("12", "十二"),
        ("20", "二十"),
        ("21", "二十一"),
        ("101", "一百零一"),
        ("144", "一百四十四"),
        ("144", "百四十四"),
    ],
    *[("-3", "minus three"), ("-3", "minus 3"), ("-3", "menos tres"), ("-3", "负三"), ("-12", "마이너스 12")],
    *[("12", "십이"), ("12", "열둘"), ("21", "스물하나"), ("144", "백사십사")],
]
OTHERS = [
    *[("1", "twenty-one"), ("2", "twentytwo"), ("20", "twenty-one"), ("10", "ten-fold"), ("7", "seventeen")],
    *[("2", "二十"), ("10", "二十"), ("12", "二十二"), ("2", "第二"), ("3", "तीनों"), ("12", "십이십"[:1])],
    *[("-12", "twelve"), ("1000", "one thousand"), ("200", "two hundred")],
]


def found(answer: str, text: str) -> list[str]:
    return [text[start:end] for start, end in spelled_spans(text, answer)]


@pytest.mark.parametrize(("answer", "word"), WORDS)
def test_a_number_is_found_by_its_word(answer: str, word: str) -> None:
    assert found(answer, f"It is {word}.") == [word]


@pytest.mark.parametrize(("answer", "word"), OTHERS)
def test_a_word_of_another_number_is_none(answer: str, word: str) -> None:
    assert found(answer, f"It is {word}.") == []


def test_every_language_has_a_row_with_a_word_for_each_number() -> None:
    assert list(NUMERALS) and set(NUMERALS) == {language.name for language in LANGUAGES}
    for numerals in NUMERALS.values():
        spelled = [numerals.spelled(number) for number in range(LAST + 1)]
        assert len(set(spelled)) == LAST + 1
