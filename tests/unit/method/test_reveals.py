"""Forms of naming an answer, by language: what goes, and what says no answer and stays."""

import re

import pytest

from shared.method.languages import ENGLISH, LANGUAGES, language_of
from shared.method.sanitizing import sanitize

NAMED = {
    "English": [
        "It must be C.",
        "So it's C.",
        "Therefore, it is option B.",
        "The third option is right.",
        "Your answer, B, is correct.",
        "The choice (D) is right.",
        "Change your answer to D.",
        "Change your answer from A to D.",
        "The correct answer is the second option.",
        "Choose the last option.",
        "Ans: C.",
        "Ans. C.",
        "Ans = (c).",
        "The answer's C.",
        "The answer’s (C).",
        "Only C works.",
        "C works.",
        "Option C.",
        "Answer (C).",
        "**Answer** C.",
        "Answer — C.",
        "Only option C fits.",
        "It's C.",
        "So C.",
        "Therefore, (C).",
        "Correct: C.",
        "Solution: C.",
        "Answer key: C.",
        "That leaves only C.",
        "B is the only option left.",
        "Final answer - B.",
        "✅ C.",
        "The answer is С.",
        "The correct option is Β.",
        "Тhе аnswеr is С.",
        "Ｔｈｅ　ａｎｓｗｅｒ　ｉｓ　Ｃ.",
        "Ａｎｓ：Ｃ.",
        "The answer is ⒞.",
        "The answer is 🅒.",
        r"The correct option is \(D\).",
        r"Final answer: \[ \text{D} \].",
        "Final answer:\n\\[\n  \\mathbf{D}\n\\].",
        r"Option \(D\) is correct.",
        r"**Answer:** $\boldsymbol{D}$.",
        "The answer is <u>D</u>.",
        "The answer is <code>(d)</code>.",
        "The answer, therefore, is D.",
        "The correct answer is, in fact, D.",
        "The answer then is D.",
        "The answer would then be D.",
        "The correct answer should have been D.",
        "It should have been D.",
        "That is D.",
        "This is D.",
        "This is, of course, option D.",
        "The correct answer (option D).",
        "The correct answer, which is D.",
        "D. is the correct answer.",
    ],
    "Chinese": [
        "正确答案是B。",
        "正確答案為（C）。",
        "答案：C",
        "答案應該選Ｂ。",
        "B是正确答案。",
        "因此选B。",
        "第三个选项是正确的。",
        "所以是B。",
        "只有B符合。",
        "正确的是B。",
        "B就是答案。",
        "答案是С。",
    ],
    "Spanish": [
        "La respuesta correcta es B.",
        "La opción correcta es la C.",
        "Elige la opción C.",
        "La tercera opción es correcta.",
        "La correcta es la B.",
        "Es la C.",
        "Por tanto, es la B.",
        "B es la respuesta.",
        "Solo la B funciona.",
    ],
    "Hindi": [
        "सही उत्तर B है।",
        "उत्तर: C",
        "विकल्प B सही है।",
        "तीसरा विकल्प सही है।",
        "यह B है।",
        "केवल B सही है।",
        "B ही उत्तर है।",
    ],
    "Arabic": [
        "الإجابة الصحيحة هي B.",
        "الجواب هو (C).",
        "الخيار B صحيح.",
        "الخيار ب صحيح.",
        "اختر B.",
        "الإجابة الصحيحة هي ب.",
        "هو B.",
        "B هو الجواب.",
        "فقط B صحيح.",
    ],
    "French": [
        "La bonne réponse est B.",
        "La re\u0301ponse est donc la C.",
        "La reponse correcte : B",
        "La troisième option est correcte.",
        "C'est B.",
        "C’est donc la B.",
        "La bonne est la B.",
        "B est la réponse.",
        "Seule B convient.",
    ],
    "Portuguese": [
        "A resposta correta é B.",
        "A alternativa correta é a letra C.",
        "Marque a alternativa D.",
        "A correta é a letra C.",
        "É a B.",
        "B é a resposta.",
        "Só a B serve.",
    ],
    "Russian": [
        "Правильный ответ: B.",
        "Правильный ответ — В.",
        "Выберите вариант C.",
        "Вариант B является правильным.",
        "Вариант В верен.",
        "Это B.",
        "Верно: B.",
        "B — это ответ.",
        "Только B подходит.",
        "Только В подходит.",
    ],
    "German": [
        "Die richtige Antwort ist B.",
        "Die Antwort lautet **C**.",
        "Antwort B ist richtig.",
        "Die dritte Option ist richtig.",
        "Die richtige ist B.",
        "Das ist die B.",
        "B ist die Antwort.",
        "Nur B passt.",
    ],
    "Japanese": [
        "正解はBです。",
        "答えはＢです。",
        "Bが正解です。",
        "答えは「C」である。",
        "選択肢Cを選んでください。",
        "よってBです。",
        "正しいのはBです。",
        "Bだけが当てはまる。",
    ],
    "Korean": [
        "정답은 B입니다.",
        "정답: C",
        "B가 정답입니다.",
        "세 번째 선택지가 정답입니다.",
        "정답은 2번입니다.",
        "따라서 B입니다.",
        "옳은 것은 B입니다.",
        "B만 맞습니다.",
        "B가 맞습니다.",
    ],
    "Italian": [
        "La risposta corretta è B.",
        "La risposta giusta è la C.",
        "Scegli la B.",
        "La risposta B è corretta.",
        "La corretta è la C.",
        "È la B.",
        "B è la risposta.",
        "Solo la B va bene.",
    ],
}

HARMLESS = [
    "答案不是B",
    "选项B不正确。",
    "不应选B，请再想想。",
    "加速度在B点为零。",
    "La respuesta no es B.",
    "La opción B es menor que la C.",
    "सही उत्तर B नहीं है",
    "الإجابة ليست B",
    "La réponse n'est pas B.",
    "Le point B est plus haut.",
    "não escolha B",
    "Правильный ответ не B.",
    "Ответ: В этом случае сила растёт.",
    "Die Antwort ist nicht B.",
    "Die Antwort ist eine Kraft.",
    "Im Punkt B ist die Kraft null.",
    "答えはBではない。",
    "点Bは右にある。",
    "정답은 B가 아닙니다.",
    "점 B는 오른쪽에 있다.",
    "La risposta non è B.",
    "It must be A matter of sign",
    "The field is strong; it is B times the area",
    "The second step is right",
    "Solution: A common mistake is the sign.",
    "The proposition: A body at rest stays there.",
    "A die is cast; the total is E, the son of it is C",
    "The answer is I think too small.",
    "The answer is I believe off by two.",
    "The correct answer is A matter of sign.",
    "Final answer: A better value needs the unit.",
    "Choose A suitable formula.",
    "Your answer: I would check the unit.",
    "It's A common mistake.",
    "The answer is B times the area.",
    "The result is E.",
    "Recheck answer C.",
    "Answer C, which you chose, ignores friction.",
    "Option C\nignores friction.",
    "So A rises with the square of B.",
    "The force is on it; the field of it is B.",
    "Only B depends on time.",
    "Only A and B enter the formula.",
    "Only I know.",
    "It is B that you should square, then divide.",
    "That leaves A as a factor.",
    "Mark B on the axis.",
    "Vitamin C works as a reducer.",
    "Therefore, I would check the sign.",
    "Correct: A is in metres.",
    "#### Check the sign",
    "# A",
    "You said C.",
    "Resposta: A massa está errada.",
    "Risposta: E poi conviene controllare.",
    "La respuesta: A mayor masa, menor aceleración.",
    "C'est une force.",
    "C'est B qui dépend du temps.",
    "El campo es B.",
    "Das ist eine Kraft.",
    "Nur B hängt von der Zeit ab.",
    "A, e B sono costanti.",
    "这是B点。",
    "因此是B点的速度。",
    "Только В этом случае сила растёт.",
    "С другой стороны, сила растёт.",
    "Это В этом случае верно.",
]

HARMLESS += [
    "This is a D-glucose.",
    "This is D-glucose.",
    "That is Diels–Alder.",
    "The field that is B.",
    "This is A common mistake.",
    r"The diffusion coefficient \(D\) is in m² per second.",
    r"This is \(D\) times the area.",
    r"This is \(D \times 2\).",
    r"This is $B$ times the area.",
    r"Use \(B\) and \[ D = 3 \] instead.",
    r"It should have been \(D\) times the area.",
    "The answer, therefore, is A matter of sign.",
    "The answer should have been A number.",
    "It should have been Diels–Alder.",
    "The <i>D</i> orbital is filled.",
    "You wrongly identified option D as the correct answer.",
    "It incorrectly takes D as the right choice.",
    "The attempt identifies D as the diffusion coefficient.",
    "This makes D the larger value.",
    "The correct answer (a unit).",
    "You should not have chosen D.",
]

AT_THE_END = ["#### C", "\n\nC", "\n(c).", "C ✓", "C (correct)", "C!", "\nА"]

BOXES = [
    r"\boxed{\text{Option C}}",
    r"\boxed{\,C\,}",
    r"\boxed{\color{red}{C}}",
    r"\boxed{\textcolor{blue}{\text{(C)}}}",
    r"\boxed{\textbf{(C) }\frac{7}{3}}",
    r"$$\boxed{\large C}$$",
    r"$ \boxed{\mathrm{C.}\ 3.96} $",
    r"\boxed{\text{答案：C}}",
    r"\fbox{\textbf{A and B}}",
    r"\boxed{\boxed{B}}",
]
OTHER_BOXES = [
    r"\boxed{\frac{A}{B}}",
    r"\boxed{A/B}",
    r"\boxed{B = 3}",
    r"\boxed{\vec{B}}",
    r"\boxed{3\,\text{C}}",
    r"\boxed{\sqrt{2}}",
]


@pytest.mark.parametrize("text", [text for texts in NAMED.values() for text in texts])
def test_a_named_answer_goes_and_its_neighbours_stay(text: str) -> None:
    assert sanitize(text) == ""
    assert sanitize(f"1 + 1. {text} 2 - 2.") == "1 + 1. 2 - 2."
    assert sanitize(f"検査。 {text} 再看单位。") == "検査。 再看单位。"


PLAIN_LETTER = re.compile(r"\([A-J]\)|(?<![A-Za-z])[A-J](?![A-Za-z])")


@pytest.mark.parametrize("wrapped", [r"\({}\)", r"\[{}\]", "${}$", "<u>{}</u>"])
@pytest.mark.parametrize("language", NAMED)
def test_what_is_wrapped_around_a_letter_changes_nothing(language: str, wrapped: str) -> None:
    for text in NAMED[language]:
        for letter in [*PLAIN_LETTER.finditer(text)][-1:]:
            named = text[: letter.start()] + wrapped.format(letter.group()) + text[letter.end() :]
            assert sanitize(f"1 + 1. {named} 2 - 2.") == "1 + 1. 2 - 2."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The attempt identifies D as the correct answer.", "The attempt."),
        ("The identification of option D as the right choice is sound.", "The identification is sound."),
        ("The numbers agree, making D the correct choice.", "The numbers agree."),
        (r"This makes \(D\) correct.", "This."),
        ("You should have chosen D.", "You."),
        ("The ratio is 0.995, that is B.", "The ratio is 0.995."),
        ("It should have been D, not C.", "not C."),
    ],
)
def test_a_letter_that_a_verb_calls_right_goes(text: str, left: str) -> None:
    assert sanitize(text) == left


@pytest.mark.parametrize("text", AT_THE_END)
def test_a_letter_that_closes_a_text_is_its_answer(text: str) -> None:
    assert sanitize(f"Check the sign. {text}") == "Check the sign."


@pytest.mark.parametrize("text", [*HARMLESS, *OTHER_BOXES])
def test_what_names_no_answer_stays(text: str) -> None:
    assert sanitize(text) == text


@pytest.mark.parametrize("box", BOXES)
def test_a_box_goes_with_all_that_it_holds(box: str) -> None:
    assert sanitize(f"Check it. {box}") == "Check it."


def test_every_listed_language_is_held_here_and_told_from_the_others() -> None:
    assert list(NAMED) == [language.name for language in LANGUAGES]
    assert LANGUAGES[0] is ENGLISH


QUESTIONS = {
    "English": "What is the speed of the car?",
    "Chinese": "汽车的速度v是多少m/s？",
    "Spanish": "¿Cuál es la velocidad de la rueda y el radio?",
    "Hindi": "कार की गति क्या है?",
    "Arabic": "ما هي سرعة السيارة في هذا الطريق؟",
    "French": "Quelle est la vitesse de la voiture dans le virage ?",
    "Portuguese": "Qual é a velocidade do carro na curva?",
    "Russian": "Какова скорость автомобиля, если путь равен 3 м?",
    "German": "Wie groß ist die Geschwindigkeit des Wagens?",
    "Japanese": "車の速さはいくらですか。",
    "Korean": "자동차의 속도는 얼마인가?",
    "Italian": "Qual è la velocità della ruota e il raggio di curva?",
    "Thai": "ความเร็วของรถเป็นเท่าไร",
    "Greek": "Ποια είναι η ταχύτητα του αυτοκινήτου;",
    "Dutch": "Wat is de snelheid van de auto in het dal?",
    "Polish": "Ile wynosi prędkość samochodu na zakręcie i jaka jest siła?",
    "Ukrainian": "Яка швидкість автомобіля та що це є?",
    "Persian": "سرعت خودرو چند است و این را از چه می‌دانیم؟",
}


@pytest.mark.parametrize(("language", "question"), QUESTIONS.items())
def test_the_language_of_a_question(language: str, question: str) -> None:
    assert language_of(question) == language


@pytest.mark.parametrize("text", ["", "12 + 3", "Σ F = m a"])
def test_what_tells_no_language_has_none(text: str) -> None:
    assert language_of(text) is None
