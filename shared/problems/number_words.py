"""Integers from 0 to 199 as words, in the languages of `method/languages.py`: twelve, doce, 十二.

Each language is a row of pieces of regular expressions. What always holds: a piece is bounded; words count in whatever
case, and with and without their accents. Larger numbers are hardly ever written out, and their words are not known.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from shared.method.languages import loose

LAST = 199


@dataclass(frozen=True)
class Numerals:
    """How one language spells numbers. `_` stands for a blank inside of a word, `|` between spellings of one.

    small: the numbers from 0 on, at least to 19. tens: 20, 30 … 90; one that repeats counts on from it (the French
    seventy is sixty-ten). joined: how `{tens}` and `{unit}` make a number. hundred: what begins 100 and all behind it.
    apart: whether blanks tell words apart; otherwise, a word stands between others than `small`'s characters.
    """

    small: str
    tens: str
    joined: str
    hundred: str
    apart: bool = True

    def spelled(self, number: int) -> str | None:
        """The pattern of the number; None if the row has no word for it."""
        if number >= 100:
            rest = self.spelled(number - 100) if number > 100 else ""
            return None if rest is None else f"(?:{self.hundred}){rest}"
        small, tens = self.small.split(), self.tens.split()
        if number < len(small):
            return _word(small[number])
        at, unit = number // 10 - 2, number % 10
        # Ten further than the last one of the same word: soixante is 60, and, the second time, 70.
        if at and tens[at] == tens[at - 1]:
            unit += 10
        if not unit:
            return _word(tens[at])
        return self.joined.format(tens=_word(tens[at]), unit=_word(small[unit]))


def _word(listed: str) -> str:
    return f"(?:{listed.replace('_', _BLANK)})"


_BLANK = r"\s"
# Hindi makes no number below 100 by rule, so each has its word here.
_HINDI_TO_99 = (
    "शून्य एक दो तीन चार पाँच|पांच छह|छः|छ सात आठ नौ दस ग्यारह बारह तेरह चौदह पंद्रह|पन्द्रह सोलह सत्रह अठारह उन्नीस बीस "
    "इक्कीस बाईस|बाइस तेईस|तेइस चौबीस पच्चीस छब्बीस सत्ताईस|सत्ताइस अट्ठाईस|अट्ठाइस उनतीस|उन्तीस तीस इकतीस|इकत्तीस बत्तीस "
    "तैंतीस|तेतीस चौंतीस पैंतीस छत्तीस सैंतीस अड़तीस उनतालीस चालीस इकतालीस बयालीस तैंतालीस चौवालीस|चवालीस पैंतालीस छियालीस "
    "सैंतालीस अड़तालीस उनचास पचास इक्यावन बावन तिरपन|तिरेपन चौवन पचपन छप्पन सत्तावन अट्ठावन उनसठ साठ इकसठ बासठ "
    "तिरसठ|तिरेसठ चौंसठ पैंसठ छियासठ सड़सठ अड़सठ उनहत्तर सत्तर इकहत्तर बहत्तर तिहत्तर चौहत्तर पचहत्तर छिहत्तर सतहत्तर अठहत्तर "
    "उन्यासी|उनासी अस्सी इक्यासी बयासी तिरासी चौरासी पचासी छियासी सत्तासी अट्ठासी|अठासी नवासी नब्बे इक्यानवे|इक्यानबे "
    "बानवे|बानबे तिरानवे|तिरानबे चौरानवे|चौरानबे पचानवे|पंचानवे|पचानबे छियानवे|छियानबे सत्तानवे|सत्तानबे अट्ठानवे|अट्ठानबे "
    "निन्यानवे|निन्यानबे"
)
_HAN = "一 二|两|兩 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九"
_HAN_TENS = "二十 三十 四十 五十 六十 七十 八十 九十"

NUMERALS = {
    "English": Numerals(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
        # With the one misspelling that is common.
        "twenty thirty forty|fourty fifty sixty seventy eighty ninety",
        r"{tens}[\s-]?{unit}",
        r"(?:a\s|one\s)?hundred(?:\s(?:and\s)?)?",
    ),
    "Spanish": Numerals(
        # With the accents of veintidós, veintitrés and veintiséis; `loose` takes them away as well.
        "cero uno|un|una dós trés cuatro cinco séis siete ocho nueve diez once doce trece catorce quince dieciséis "
        "diecisiete dieciocho diecinueve",
        "veinte|veinti treinta cuarenta cincuenta sesenta setenta ochenta noventa",
        r"{tens}(?:\sy\s)?{unit}",
        r"cien(?:to\s?)?",
    ),
    "French": Numerals(
        "zéro un|une deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
        "dix[\\s-]sept "
        "dix[\\s-]huit dix[\\s-]neuf",
        # Soixante and quatre-vingt stand twice: from them French counts on to 19.
        "vingt trente quarante cinquante soixante soixante quatre[\\s-]vingts? quatre[\\s-]vingts?",
        r"{tens}(?:[\s-]et)?[\s-]{unit}",
        r"cent[\s-]?",
    ),
    "Portuguese": Numerals(
        # As in Brazil, or as in Portugal.
        "zero um|uma dois|duas três quatro cinco seis sete oito nove dez onze doze treze catorze|quatorze quinze "
        "dezesseis|dezasseis dezessete|dezassete dezoito dezenove|dezanove",
        "vinte trinta quarenta cinquenta sessenta setenta oitenta noventa",
        r"{tens}\se\s{unit}",
        r"(?:cem|cento\se\s)",
    ),
    "Italian": Numerals(
        "zero uno|un|una due tré quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici "
        "sedici diciassette diciotto diciannove",
        # The last vowel goes before another one: ventuno, ventotto.
        "venti? trenta? quaranta? cinquanta? sessanta? settanta? ottanta? novanta?",
        r"{tens}{unit}",
        r"cento?\s?",
    ),
    "German": Numerals(
        "null eins|ein|eine zwei|zwo drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
        "sechzehn siebzehn achtzehn neunzehn",
        "zwanzig dreißig|dreissig vierzig fünfzig sechzig siebzig achtzig neunzig",
        r"{unit}und{tens}",
        r"(?:ein)?hundert(?:und)?",
    ),
    "Russian": Numerals(
        # In the nominative and in the cases in which an answer is named.
        "нол[ья]|нул[ья] один|одному|одна дв[ае]|двум три|тр(?:е|ё)м четыре|четыр(?:е|ё)м "
        "пят[ьи] шест[ьи] сем[ьи] восемь|восьми "
        "девят[ьи] десят[ьи] одиннадцат[ьи] двенадцат[ьи] тринадцат[ьи] четырнадцат[ьи] пятнадцат[ьи] шестнадцат[ьи] "
        "семнадцат[ьи] восемнадцат[ьи] девятнадцат[ьи]",
        "двадцат[ьи] тридцат[ьи] сорока? пятьдесят|пятидесяти шестьдесят|шестидесяти семьдесят|семидесяти "
        "восемьдесят|восьмидесяти девяност[оа]",
        r"{tens}\s{unit}",
        r"ст[оа]\s?",
    ),
    "Hindi": Numerals(_HINDI_TO_99, "", "", r"(?:एक\s)?सौ\s?"),
    "Arabic": Numerals(
        "صفر واحدة? (?:ا|إ)?ثنان|(?:ا|إ)ثنين|اثنتان ثلاثة? (?:أ|ا)ربعة? "
        "خمسة? ستة? سبعة? ثماني?ة?|ثمان تسعة? عشرة? "
        "(?:أ|ا)حد_عشر|(?:إ|ا)حدى_عشرة (?:ا|إ)ثنا_عشر|(?:ا|إ)ثني_عشر|اثنتا_عشرة ثلاثة?_عشرة? (?:أ|ا)ربعة?_عشرة? "
        "خمسة?_عشرة? ستة?_عشرة? "
        "سبعة?_عشرة? ثماني?ة?_عشرة? تسعة?_عشرة?",
        "عشر[وي]ن ثلاث[وي]ن (?:أ|ا)ربع[وي]ن خمس[وي]ن ست[وي]ن سبع[وي]ن ثمان[وي]ن تسع[وي]ن",
        r"{unit}\sو\s?{tens}",
        r"(?:مائة|مئة)(?:\sو\s?)?",
    ),
    "Chinese": Numerals(f"零|〇 {_HAN}", _HAN_TENS, "{tens}{unit}", "一?百零?一?", apart=False),
    "Japanese": Numerals(f"零|〇|ゼロ {_HAN}", _HAN_TENS, "{tens}{unit}", "百", apart=False),
    "Korean": Numerals(
        # Sino-Korean words, and Korean ones as they count and as they stand before what is counted.
        "영|공 일|하나|한 이|둘|두 삼|셋|세 사|넷|네 오|다섯 육|여섯 "
        "칠|일곱 팔|여덟 구|아홉 십|열 십일|열하나|열한 십이|열둘|열두 "
        "십삼|열셋|열세 십사|열넷|열네 십오|열다섯 십육|열여섯 십칠|열일곱 십팔|열여덟 십구|열아홉",
        "이십|스물|스무 삼십|서른 사십|마흔 오십|쉰 육십|예순 칠십|일흔 팔십|여든 구십|아흔",
        r"{tens}\s?{unit}",
        r"백\s?",
        apart=False,
    ),
}
"""By the name of the language."""

_IN_WORDS = r"\w\u0300-\u036f\u064b-\u065f\u0900-\u0963-"  # combining marks are no `\w`
_MINUS = r"(?:minus|negative|menos|moins|meno|минус|ऋण|سالب|ناقص|负|負|マイナス|마이너스)\s?"
_HAN_DIGITS = "零〇一二两兩三四五六七八九十百千万萬億亿"


# All numbers from -LAST to LAST: one takes 6 ms to compile, and a run asks for the same hundred over and over.
@lru_cache(maxsize=512)
def _pattern(number: int) -> re.Pattern[str]:
    spelled = [(row.apart, loose(word)) for row in NUMERALS.values() if (word := row.spelled(abs(number))) is not None]
    apart = "|".join(word for blanks, word in spelled if blanks)
    unspaced = "|".join(word for blanks, word in spelled if not blanks)
    minus = ""
    if number < 0:
        minus, apart = loose(_MINUS), rf"{apart}|{-number}"
        unspaced = rf"{unspaced}|{-number}"
    return re.compile(
        rf"(?<![{_IN_WORDS}]){minus}(?:{apart})(?![{_IN_WORDS}])"
        rf"|(?<![{_HAN_DIGITS}第가-힣]){minus}(?:{unspaced})(?![{_HAN_DIGITS}\d])",
        re.IGNORECASE,
    )


def spelled_spans(text: str, answer: str) -> Iterator[tuple[int, int]]:
    """Where the answer is spelled out, a minus among it (`minus 3`); nowhere if it is beyond `LAST` or `-LAST`.

    answer: canonical, such as `12` or `-3`, "" where nobody knows it. Takes time linear in the text.
    """
    if answer and len(answer) <= len(str(-LAST)) and abs(int(answer)) <= LAST:
        yield from (found.span() for found in _pattern(int(answer)).finditer(text))
