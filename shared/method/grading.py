"""Reading the answer out of a response and scoring it.

`grade` is the only score that is trained on or reported; it copies the strictness of the published scorer
(SDPO `verl/utils/reward_score/feedback/mcq.py`), including its oddities. `lenient_grade` only tells how many
wrong scores are a matter of form. Nothing here penalises a wrong format.
"""

import re
import unicodedata

OPEN_TAG = "<answer>"
CLOSE_TAG = "</answer>"
SUCCESS_THRESHOLD = 0.5
"""A rollout is correct when its reward is at least this (any value in (0, 1] is the same for 0/1 rewards)."""

_ANY_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_ANY_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_OPTION_FIRST = re.compile(r"[\W_]*(?:(?i:option|choice)[\W_]+)?([A-Za-z])(?=[\W_]*$|[)\]}.:,;*]|\s*[:\n])")


def extract_answer(text: str) -> str:
    """The text after the last `<answer>` up to the next `</answer>` or the end, stripped.

    Without an opening tag the whole text is read. Case matters. A response cut before `</answer>` still answers
    with its rest.
    """
    # Where there is no tag, rpartition gives the whole text as the tail; the published scorer reads that, too.
    _, _, tail = text.rpartition(OPEN_TAG)
    answer, _, _ = tail.partition(CLOSE_TAG)
    return answer.strip()


def grade(text: str, answer: str) -> float:
    """1.0 if the extracted answer is exactly `answer`, else 0.0. `b`, `(B)`, `B.` and `**B**` all score 0.

    text: the decoded response alone, special tokens skipped.
    """
    # No folding of case and no markup taken off: leniency here would be another reward than the paper's.
    return 1.0 if extract_answer(text) == answer else 0.0


def lenient_grade(text: str, answer: str) -> float:
    """1.0 if a tolerant reader would find `answer`. A diagnostic: never a reward, never the reported score.

    It forgives case, brackets, markup, a full stop, the option's text after the letter, tags in capitals, and
    empty or unfinished tags after the last filled one. What `grade` accepts it accepts, too.
    """
    if grade(text, answer) == 1.0:
        return 1.0
    said = _comparable(_last_filled_block(text))
    wanted = _comparable(answer)
    if said == wanted:
        return 1.0
    letter = _OPTION_FIRST.match(said)
    return 1.0 if letter and letter.group(1).casefold() == wanted.casefold() else 0.0


def format_ok(text: str) -> bool:
    """Whether the response ends with a closed answer block. True is good (the published flag is inverted)."""
    body = text.rstrip()
    return body.endswith(CLOSE_TAG) and OPEN_TAG in body[: -len(CLOSE_TAG)]


def _last_filled_block(text: str) -> str:
    """The content of the last answer tag that holds something; the whole text if there is no such tag."""
    end = len(text)
    for opening in reversed(list(_ANY_OPEN.finditer(text))):
        inside = text[opening.end() : end]
        closing = _ANY_CLOSE.search(inside)
        content = (inside[: closing.start()] if closing else inside).strip()
        if content:
            return content
        end = opening.start()
    closing = _ANY_CLOSE.search(text)
    return text[: closing.start()] if closing else text


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().strip("*_`$ \"'")
