"""The languages in which the rules of anchor and sanitizer know how an answer is named: the one list of them.

English has its own rules (`reveals.py`), the paper's and those that grew from them; every other language has the few
forms in which its speakers name an answer, as pieces of regular expressions. What always holds: a piece is bounded, so
that matching stays linear; accented letters match with and without their accent, composed or not (`loose`).
A new language is a row here, a row in the test of reveals, and a word in docs/method.md.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from shared.method.scripts import scripts_of, word_spans


@dataclass(frozen=True)
class Language:
    """How one language names an answer.

    scripts: names as `scripts.script_of` has them. common: what cannot anchor a feedback, and what tells the language
    from others in its script; words, or for unspaced scripts parts of words. answer: what is named (`the correct
    answer`), being: what joins it to the answer (`is`), option: what may stand before a letter (`option`), right:
    what follows a letter that is the answer (`is correct`), choose: what precedes one, ordinal: an option by its
    place (`the third option`), equals: what joins a quantity to its value, tail: what may close such a clause,
    negation: what behind the answer says that it is none, correct: what stands for the correct one (`the right one`),
    it: what points at an answer (`c'est`), only and fits: what is said around the only answer that does (`only`,
    `works`), behind: what joins a quantity to its value from behind it, where the verb comes last.
    """

    name: str
    scripts: tuple[str, ...]
    common: str
    answer: str = ""
    being: str = ""
    option: str = ""
    right: str = ""
    choose: str = ""
    ordinal: str = ""
    equals: str = ""
    tail: str = ""
    negation: str = ""
    correct: str = ""
    it: str = ""
    only: str = ""
    fits: str = ""
    behind: str = ""


_FIRST = r"(?:\A|(?<=[.!?:。؟] )|(?<=[\n。]))"
"""Where a sentence begins: a bare `es` or `هو` within one joins a symbol to its meaning as often as it answers."""

ENGLISH = Language(
    "English",
    ("LATIN",),
    "the of is and to in that what which how does many are from with for it its has an be this find was as at by "
    "on if when where will can between given following calculate",
)

_SPANISH = Language(
    "Spanish",
    ("LATIN",),
    "el la los las de del en un una es son que cuál cual qué cómo cuánto cuánta cuántos con por para se al su lo "
    "y o no si entre como respuesta pregunta problema valor fórmula cálculo opción opciones paso concepto "
    "correcta correcto",
    answer=r"(?:respuesta|opción|alternativa|solución|elección)"
    r"(?:\s(?:correcta|final|acertada|adecuada|verdadera)){0,2}",
    being=r"(?:es|era|será|sería|debe(?:ría)?\sser|tiene\sque\sser)(?:\s(?:entonces|por\stanto|claramente))?",
    option=r"(?:(?:la|el)\s)?(?:opción|letra|respuesta|alternativa|la)",
    right=r"(?:es|sería)\s(?:la\s)?(?:(?:respuesta|opción|alternativa)\s)?(?:correct[ao]|acertad[ao]|verdader[ao])"
    r"|(?:es|sería)\sla\srespuesta(?:\sfinal)?",
    choose=r"(?<!no )(?:elige|elija|escoge|escoja|selecciona|seleccione|marca|marque|elegir|escoger|seleccionar)",
    ordinal=r"(?:(?:la\s)?(?:primera|segunda|tercera|cuarta|quinta|última)\s(?:opción|alternativa|respuesta))",
    equals=r"(?:(?:es\s)?igual\sa|es\sde|es|son|da|vale|resulta|equivale\sa|queda|sale|obten(?:emos|go)|obtienes)",
    correct=r"(?:correct|acertad)[ao]",
    it=_FIRST + r"(?:(?:por\s(?:lo\s)?tanto|entonces|luego),?\s|así\sque\s)?(?:es|será|sería)",
    only=r"(?:solo|sólo|solamente|únicamente)",
    fits=r"(?:funciona|encaja|sirve|cumple|queda|es\s(?:posible|válid[ao]|correct[ao]))",
)
_FRENCH = Language(
    "French",
    ("LATIN",),
    "le la les de des du en un une est sont que quel quelle quels comment combien avec pour par se au aux sur "
    "dans et ou qui ce cette il elle à réponse question problème valeur formule calcul option étape concept "
    "correcte bonne",
    answer=r"(?:(?:(?:bonne|vraie|meilleure)\s)?(?:réponse|option)|(?:bonne|meilleure)\s(?:solution|proposition))"
    r"(?:\s(?:correcte|finale|exacte|juste|attendue)){0,2}",
    being=r"(?:est|était|sera|serait|doit\sêtre|devrait\sêtre)(?:\s(?:donc|bien|clairement|alors))?",
    option=r"(?:(?:la|l['’])\s?)?(?:option|lettre|réponse|proposition|la)",
    right=r"est\s(?:la\s(?:bonne\s|meilleure\s)?(?:réponse|option|proposition)(?:\s(?:correcte|juste|exacte))?"
    r"|correcte?|juste|exacte?|vraie?)",
    choose=r"(?<!ne )(?:choisis|choisissez|choisir|sélectionnez|sélectionne|coche|cochez|prenez)",
    ordinal=r"(?:(?:la\s)?(?:première|deuxième|seconde|troisième|quatrième|cinquième|dernière)\s"
    r"(?:option|réponse|proposition))",
    equals=r"(?:(?:est\s)?égale?\sà|égale|est\sde|est|vaut|donne|font|fait|soit|obt(?:ient|iens|enons|enez)|trouve)",
    correct=r"bon(?:ne)?|correcte?|juste",
    it=r"(?:donc\s|alors\s)?(?:c['’]est|ce\ss(?:era|erait)|ce\sdoit\sêtre|il\ss['’]agit\sde)(?:\s(?:donc|bien|alors))?",
    only=r"(?:seule?|uniquement)",
    fits=r"(?:convient|marche|fonctionne|correspond|reste|est\s(?:possible|valable|juste|correcte?))",
)
_PORTUGUESE = Language(
    "Portuguese",
    ("LATIN",),
    "o a os as de da do das dos em um uma é são que qual quais como quanto quanta quantos com por para se ao na "
    "no nas nos e ou não entre resposta pergunta questão problema valor fórmula cálculo opção alternativa passo "
    "conceito correta",
    answer=r"(?:resposta|opção|alternativa|solução)(?:\s(?:correta|certa|final|verdadeira|adequada)){0,2}",
    being=r"(?:é|era|será|seria|deve\sser|deveria\sser|tem\sque\sser)(?:\s(?:portanto|então|claramente))?",
    option=r"(?:(?:a|o)\s)?(?:opção|letra|resposta|alternativa|a)",
    right=r"(?:é|está|seria)\s(?:a\s)?(?:(?:resposta|opção|alternativa)\s)?(?:corret[ao]|cert[ao]|verdadeir[ao])"
    r"|(?:é|seria)\sa\sresposta(?:\sfinal)?",
    choose=r"(?<!n\xe3o )(?:escolha|escolhe|selecione|seleciona|marque|assinale|escolher|selecionar)",
    ordinal=r"(?:(?:a\s)?(?:primeira|segunda|terceira|quarta|quinta|última)\s(?:opção|alternativa|resposta))",
    equals=r"(?:(?:é\s)?igual\sa|é\sde|é|são|dá|vale|resulta\sem|equivale\sa|fica|obt(?:emos|ém|enho))",
    correct=r"(?:corret|cert)[ao]",
    it=_FIRST + r"(?:(?:portanto|então|logo),?\s)?(?:é|será|seria)",
    only=r"(?:só|somente|apenas)",
    fits=r"(?:funciona|serve|satisfaz|resta|é\s(?:possível|válid[ao]|corret[ao]))",
)
_ITALIAN = Language(
    "Italian",
    ("LATIN",),
    "il lo la gli le di del della dei in un una è sono che quale quali come quanto quanta quanti con per da al "
    "alla si e o non tra nel nella risposta domanda problema valore formula calcolo opzione passo concetto "
    "corretta corretto",
    answer=r"(?:risposta|opzione|alternativa|soluzione|scelta)(?:\s(?:corretta|giusta|esatta|finale)){0,2}",
    being=r"(?:è|era|sarà|sarebbe|deve\sessere|dovrebbe\sessere)(?:\s(?:quindi|dunque|chiaramente))?",
    option=r"(?:la\s)?(?:opzione|lettera|risposta|alternativa|la)|l['’]opzione",
    right=r"è\s(?:la\s)?(?:(?:risposta|opzione|alternativa|scelta)\s)?(?:corrett[ao]|giust[ao]|esatt[ao])"
    r"|è\sla\srisposta(?:\sfinale)?",
    choose=r"(?<!non )(?:scegli|scelga|scegliete|seleziona|selezionare|scegliere)",
    ordinal=r"(?:(?:la\s)?(?:prima|seconda|terza|quarta|quinta|ultima)\s(?:opzione|risposta|alternativa))",
    equals=r"(?:(?:è\s)?uguale\sa|è\sdi|è|sono|dà|vale|risulta|fa|otten(?:iamo|go)|ottieni|si\sottiene)",
    correct=r"(?:quella\s)?(?:corrett|giust|esatt)[ao]",
    it=_FIRST + r"(?:(?:quindi|dunque|perciò),?\s)?(?:è|sarà|sarebbe)",
    only=r"(?:solo|soltanto|solamente)",
    fits=r"(?:funziona|va\sbene|soddisfa|resta|rimane|è\s(?:possibile|valid[ao]|corrett[ao]))",
)
_GERMAN = Language(
    "German",
    ("LATIN",),
    "der die das den dem des ein eine einen einer ist sind wie was welche welcher welches wird werden und oder "
    "nicht mit von zu zum zur im für auf bei aus hat wenn viel viele groß antwort frage problem wert formel "
    "rechnung option schritt begriff richtig richtige falsch",
    answer=r"(?:(?:richtige|korrekte|endgültige|beste|einzige|zutreffende)\s)?"
    r"(?:antwort|option|lösung|wahl|antwortmöglichkeit|auswahl)",
    # The verb of a sentence that a letter closes stands before it, its infinitive behind it (`tail`).
    being=r"(?:ist|war|lautet|wäre|muss|sollte|kann\snur)(?:\s(?:also|somit|daher|damit|folglich|demnach))?",
    option=r"(?:die\s)?(?:option|antwort|möglichkeit|antwortmöglichkeit|buchstabe)|die",
    right=r"ist\s(?:(?:also|somit|daher)\s)?(?:die\s(?:(?:richtige|korrekte|beste)\s)?(?:antwort|lösung)"
    r"|die\s(?:richtige|korrekte|beste)\s(?:option|wahl)"
    r"|richtig|korrekt|zutreffend)|stimmt|trifft\szu",
    choose=r"(?:(?:wähle|wählen\ssie|nimm|nehmen\ssie|kreuze)|(?:richtig|korrekt)\sist)",
    ordinal=r"(?:(?:die\s)?(?:erste|zweite|dritte|vierte|fünfte|letzte)\s(?:option|antwort|möglichkeit))",
    equals=r"(?:ist\sgleich|ergibt|beträgt|ist|sind|gleich|macht|(?:erhält|bekommt)\sman|kommt\sauf)",
    # Behind the letter: `die Antwort muss B sein`.
    tail=r"(?:\s{0,2}sein)?",
    correct=r"(?:richtig|korrekt)(?:e[rs]?)?",
    it=r"(?:(?:also|somit|daher)\s)?(?:es|das|dies)\s(?:ist|sind|wäre|muss)(?:\s(?:also|somit|daher|dann))?",
    only=r"nur",
    fits=r"(?:passt|stimmt|funktioniert|geht|bleibt|kommt\sin\sfrage|ist\s(?:möglich|richtig|korrekt))",
)
_RUSSIAN = Language(
    "Russian",
    ("CYRILLIC",),
    "и в во на с со по к у о об из за для не что это как какой какая какое какие каков чему сколько равна равно "
    "равен если при от до или ответ вопрос задача значение формула вычисление вариант шаг понятие правильный "
    "верный найдите",
    answer=r"(?:(?:правильн|верн|окончательн|итогов)[а-я]{1,3}\s)?(?:ответ|вариант|выбор)(?:ом|а)?(?:\sответа)?",
    # Russian has no `is`: a dash stands for it.
    being=r"(?:это|является|будет|должен\sбыть|есть|под\sбуквой|[-–—])(?:\s(?:это|буква|вариант))?",
    option=r"(?:вариант|буква|ответ)",
    right=r"(?:[-–—]\s)?(?:это\s|является\s)?(?:правильн|верн)[а-я]{1,4}(?:\s(?:ответ|вариант)(?:ом)?(?:\sответа)?)?"
    r"|верен|верна|верно|правилен|(?:[-–—]\s)?(?:это\s|является\s)?ответ(?:ом)?",
    choose=r"(?<!не )(?:выбери|выберите|выбирайте|выбирай|следует\sвыбрать|нужно\sвыбрать|надо\sвыбрать)",
    ordinal=r"(?:(?:перв|втор|трет|четв(?:е|ё)рт|пят|последн)[а-я]{1,3}\s(?:вариант|ответ))",
    equals=r"(?:равн[аоы]|равен|равняется|составит|составляет|это|будет|выходит|получается|получ(?:им|аем)|дает|даёт)",
    correct=r"(?:правильн|верн)[а-я]{1,3}",
    it=r"(?:(?:значит|следовательно|поэтому),?\s)?(?:это|(?<=значит, )|(?<=следовательно, ))",
    only=r"(?:только|лишь)",
    fits=r"(?:подходит|годится|верн[оа]|верен|оста(?:е|ё)тся|удовлетворяет|возможен)",
)
_HINDI = Language(
    "Hindi",
    ("DEVANAGARI",),
    "का के की को है हैं में से और या पर एक क्या कितना कितनी कितने कौन यह वह इस उस तो जो ने था होगा उत्तर जवाब "
    "प्रश्न सवाल समस्या मान सूत्र गणना विकल्प चरण सही गलत",
    answer=r"(?:(?:सही|अंतिम|सटीक|उचित)\s)?(?:उत्तर|जवाब|विकल्प)",
    # The verb comes last, so mostly nothing joins an answer to what is named (`tail`).
    being=r"(?:है|होगा|यह\sहै)?",
    option=r"(?:विकल्प|उत्तर)",
    right=r"(?:ही\s)?(?:सही|ठीक)(?:\s(?:उत्तर|जवाब|विकल्प))?(?:\s(?:है|होगा))?|चुनें|चुनिए|चुनो|(?:ही\s)?(?:उत्तर|जवाब)\s(?:है|होगा)",
    ordinal=r"(?:(?:पहला|दूसरा|तीसरा|चौथा|पाँचवाँ|अंतिम)\s(?:विकल्प|उत्तर))",
    equals=r"(?:बराबर(?:\sहै)?|मान|है)",
    tail=r"(?:\s{0,2}(?:है|होगा|होना\sचाहिए))?",
    negation=r"नहीं|गलत",
    correct=r"सही",
    it=r"(?:(?:तो|इसलिए|अतः)\s)?(?:यह|ये)",
    only=r"(?:केवल|सिर्फ़?)",
    fits=r"(?:ही\s)?(?:सही|ठीक|संभव|उपयुक्त)(?:\sहै)?",
    behind=r"(?:के\sबराबर(?:\s(?:है|होगा|होगी))?|है|होगा|होगी|आता\sहै|मिलता\sहै|प्राप्त\sहोता\sहै)",
)
_ARABIC = Language(
    "Arabic",
    ("ARABIC",),
    "في من إلى على عن ما هو هي التي الذي هذا هذه كم أي أن إن مع أو و لا هل كان بين إذا عند الجواب الإجابة السؤال "
    "المسألة القيمة الصيغة الحساب الخيار الخطوة المفهوم الصحيح الصحيحة احسب أوجد",
    # `And` and `so` are written in one with the word behind them.
    answer=r"[وف]?(?:الإجابة|الاجابة|الجواب|الخيار|الاختيار|الحل)"
    r"(?:\s(?:الصحيحة|الصحيح|النهائية|النهائي|الأفضل)){0,2}",
    being=r"(?:إذن\s|اذن\s)?(?:هي|هو|ستكون|سيكون|يجب\sأن\s(?:تكون|يكون))",
    option=r"(?:الخيار|الحرف|الإجابة)",
    right=r"(?:(?:هو|هي)\s)?(?:(?:الخيار|الجواب|الإجابة)\s)?(?:الصحيحة|الصحيح|صحيحة|صحيح)|(?:هو|هي)\s(?:الجواب|الإجابة)",
    choose=r"(?<!لا )(?:اختر|اختار|اختاري|حدد)",
    ordinal=r"(?:(?:الخيار|الجواب)\s(?:الأول|الثاني|الثالث|الرابع|الخامس|الأخير))",
    equals=r"(?:يساوي|تساوي|هو|هي|يعطي|تعطي|نحصل\sعلى|يبلغ|تبلغ)",
    correct=r"(?:الصحيحة|الصحيح)",
    it=_FIRST + r"(?:إذن\s|لذلك\s)?(?:إنها|إنه|هي|هو)",
    only=r"فقط",
    fits=r"(?:صحيحة?|مناسبة?|يصلح|يحقق|ممكنة?)",
)
_CHINESE = Language(
    "Chinese",
    ("CJK",),
    "的 问题 問題 答案 公式 计算 計算 数值 數值 选项 選項 选择 選擇 步骤 步驟 概念 学生 學生 正确 正確 错误 錯誤 "
    "结果 結果 解答 题目 題目 什么 什麼 多少 如何 哪个 哪個 哪些 下列 以下 其中 这个 這個 一个 一個 以及 因为 "
    "因為 所以 如果 我们 我們 可以 可能",
    answer=r"(?:正确|正確|最终|最終|最佳|标准|標準|参考|最后|最後)?的?(?:答案|选项|選項|结果|結果|选择|選擇)",
    being=r"(?:应该|應該|应当|應當|应|應|就|便|只能|必须|必須|一定|显然)?(?:是|为|為|选择|選擇|选|選)",
    option=r"(?:选项|選項|答案|第)",
    right=r"(?:选项|選項|项|項)?(?:才|就)?(?:是|为|為)?(?:唯一|最)?(?:正确|正確|对|對|佳|合适|准确)的?"
    r"(?:答案|选项|選項|选择|選擇)?|(?:才|就)?(?:是|为|為)(?:最终|最終)?(?:答案|结果|結果)",
    # Without the ways in which Chinese says not to choose one, each as long as a lookbehind has to be.
    choose=r"(?<![不没未别勿非])(?<!不[应能要该])(?<!不应该)(?:应该|應該|应当|应|應|必须|请|要|故|所以|因此)?(?:选择|選擇|选|選)",
    ordinal=r"(?:第\s?[一二三四五六七八九十1-9]\s?(?:个|個)?(?:选项|選項|项|項|答案))",
    equals=r"(?:等于|等於|得到|得出|得|就?是|应?为|應?為|应该是|應該是|约为|約為|算出)",
    tail=r"(?:选项|選項|项|項)?",
    negation=r"(?:并|並)?不|是不|错|錯",
    correct=r"(?:正确|正確|对|對)的",
    it=r"(?:所以|因此|故|那么)(?:它|这|這)?就?是|(?:它|这|這)就?是",
    only=r"(?:只有|唯有|仅有|仅)",
    fits=r"(?:才|是)?(?:符合|正确|正確|成立|满足|滿足|对|對|可行|合适)的?",
)
_JAPANESE = Language(
    "Japanese",
    # Kana tell it from Chinese, whose characters it shares (`language_of`).
    ("HIRAGANA", "KATAKANA", "CJK"),
    "の です ます この その あの どの これ それ どれ なに いくつ いくら ください 問題 質問 答え 解答 回答 正解 "
    "公式 計算 選択肢 選択 手順 概念 学生 正しい 間違い 結果",
    answer=r"(?:正しい|最終的な|最終|最も適切な)?(?:答え|解答|回答|正解|正答|答|選択肢|結果)",
    being=r"(?:は|が|としては|となるのは)",
    option=r"(?:選択肢|解答|答え)の?",
    right=r"(?:こそ)?(?:が|は)(?:最も)?(?:正解|正しい|正答|適切|正しい答え|答え)|だけが?(?:正しい|正解|当てはまる|合う|成り立つ|適切)|を(?:選ぶ|選びましょう|選んで(?:ください)?|選択(?:する|して(?:ください)?)?)",
    ordinal=r"(?:[一二三四五1-9]\s?(?:番目|つ目)の(?:選択肢|答え))",
    equals=r"(?:イコール|は|が|で)",
    tail=r"(?:でしょう|です|である|だ|になります|となります|になる|となる)?",
    negation=r"(?:で|じゃ)は?(?:な|あり)|じゃな|ではな",
    correct=r"正しい(?:の|もの)?|適切な(?:の|もの)",
    it=r"(?:よって|したがって|従って|ゆえに|だから|つまり)、?\s?(?:それは|これは)?|それは|これは",
    behind=r"(?:に等しい|に等しく|になる|となる|になります|となります)",
)
_KOREAN = Language(
    "Korean",
    ("HANGUL",),
    "문제 질문 정답 답변 공식 계산 선택지 보기 단계 개념 학생 결과 올바른 정확한 무엇 얼마 어느 어떤 다음 그리고 "
    "또는 입니까 인가 입니다 이다 있는 있다 하는 구하시오 것은 것이",
    answer=r"(?:올바른\s|옳은\s|맞는\s|최종\s?|정확한\s)?(?:정답|답안|답|해답|선택지|보기|결과)",
    being=r"(?:은|는|이|가)(?:\s?(?:바로|결국|따라서))?",
    option=r"(?:선택지|보기|옵션|정답)",
    right=r"(?:번)?(?:이|가|은|는|만)\s?(?:정답|답|(?:옳|맞)(?:습니다|아요|다|음)?|올바른\s?답)|(?:을|를)\s?(?:선택(?:하세요|하십시오|합니다|한다)?|고르(?:세요|십시오)|고른다)",
    ordinal=r"(?:(?:첫|두|세|네|다섯)\s?번째\s(?:선택지|보기|답|옵션)|[1-9]\s?번)",
    equals=r"(?:은|는|이|가)",
    tail=r"(?:번)?(?:\s{0,2}(?:입니다|이다|이에요|예요|임|이며|이므로|다))?",
    negation=r"(?:이|가|은|는)?\s?아니|(?:이|가|은|는)?\s?아닙",
    correct=r"(?:옳은|맞는|올바른)\s?(?:것|건|답)",
    it=r"(?:따라서|그러므로|그래서|즉),?\s(?:그것은\s|이것은\s)?|그것은\s|이것은\s",
    behind=r"(?:와|과)\s같(?:다|습니다)|(?:이|가)\s(?:된다|됩니다|나온다|나옵니다)",
)

LANGUAGES = (
    ENGLISH,
    _CHINESE,
    _SPANISH,
    _HINDI,
    _ARABIC,
    _FRENCH,
    _PORTUGUESE,
    _RUSSIAN,
    _GERMAN,
    _JAPANESE,
    _KOREAN,
    _ITALIAN,
)
"""The covered ones. A problem set in another language is answered with a warning when a run starts."""

SURE = 4
"""Distinct words that tell a language other than English: "si", "al" and "per" are Italian, and English chemistry."""

_TOLD_APART = {
    "Dutch": "de het een van is en in op dat die wat welke hoeveel met voor niet zijn bij aan",
    "Polish": "w z na do jest się jaka jaki jakie jest oraz ile który która przez dla od nie to",
    "Swedish": "och är en ett av på som till för hur många vad vilken vilket det inte med har",
    "Turkish": "ve bir bu için ile kaç nedir olan hangi hangisi ne kadar değil olarak",
    "Vietnamese": "là của và các một trong bao nhiêu có được cho với nào không những",
    "Indonesian": "yang dan dari di dengan untuk berapa adalah pada apa ini itu sebuah tidak",
    "Romanian": "și este care de la în cu pe un o din câte câți mai nu sunt pentru",
    "Czech": "je na v se jaká jaký jaké kolik který která a pro z do ve není",
    "Ukrainian": "та є у який яка яке скільки чи що не на до від для це і й",
    "Bulgarian": "е на и в от за се да каква какъв колко който която са с че",
    "Persian": "است از در به که این را چند چه با برای آن و یک می",
    "Urdu": "ہے کا کی کے میں سے کیا کتنا کتنی اور یہ ہیں کو پر",
}
"""Frequent words of languages that share a script with a covered one: without them those would pass for it."""

_BESIDE_ENGLISH = frozenset(each.name for each in LANGUAGES[1:])
_SHARED_SCRIPTS = ("LATIN", "CYRILLIC", "ARABIC")
_COMMON = {each.name: frozenset(each.common.split()) for each in LANGUAGES} | {
    name: frozenset(common.split()) for name, common in _TOLD_APART.items()
}


def language_of(text: str) -> str | None:
    """The name of the language a text is most likely in: by its script, else by its most frequent words. For a
    script that no covered language has, the script's name (`Thai`); None where nothing tells.
    """
    script = _main_script(text)
    if script is None:
        return None
    covered = [each.name for each in LANGUAGES if script in each.scripts]
    if not covered:
        return script.capitalize()
    if script == "CJK":
        return "Chinese"  # without kana; Japanese is told by its hiragana
    if len(covered) == 1 and script not in _SHARED_SCRIPTS:
        return covered[0]
    return _by_words(text, [*covered, *_TOLD_APART], script)


def _main_script(text: str) -> str | None:
    """The script of a text. Formulas bring Latin letters into every text: another one counts from a third on."""
    scripts = scripts_of(text)
    latin = scripts.pop("LATIN", 0)
    others = scripts.total()
    if latin + others == 0:
        return None
    # Less than a third of all letters.
    if 2 * others < latin:
        return "LATIN"
    if scripts["HIRAGANA"]:
        return "HIRAGANA"
    return scripts.most_common(1)[0][0]


def common_words(name: str | None) -> frozenset[str]:
    """What cannot anchor in that language beside English; for a language that is not covered none."""
    return _COMMON[name] if name in _BESIDE_ENGLISH else frozenset()


def loose(source: str) -> str:
    """The pattern with each accented letter as itself, decomposed, or without its accent."""
    return "".join(map(_loose, source))


def _loose(character: str) -> str:
    apart = unicodedata.normalize("NFD", character)
    if len(apart) == 1:
        return character
    # Of letters that are not Latin the mark is no accent: й without its breve is another letter.
    base = apart[0] if apart[0].isascii() else apart
    return f"(?:{character}|{apart}|{base})"


def _by_words(text: str, names: Sequence[str], script: str) -> str | None:
    """The language most of whose words are in the text; the first one listed among equals."""
    folded = text.casefold()
    found = {folded[start:end] for start, end in word_spans(folded)}
    hits = {name: len(found & _COMMON[name]) for name in names}
    best = max(hits, key=lambda name: hits[name])
    # Latin letters stand in the formulas of every language, so there a few words must say which one it is.
    if script != "LATIN":
        return best if hits[best] else names[0]
    return best if hits[best] >= (1 if best == ENGLISH.name else SURE) else None
