"""What the self-teacher is shown, and for which rollouts (paper section 3.1; SDPO's `ray_trainer.py`).

Context c = (s, f): s is the earliest correct rollout of the same problem, f the peer's feedback; both are used when
both exist. The question, the last instruction and the system turn are never shortened. A rollout with neither keeps
its messages unchanged and has loss mask 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import sha256
from json import dumps

from shared.method.grading import SUCCESS_THRESHOLD
from shared.method.sanitizing import neutralise_control_tokens, strip_thinking
from shared.method.scores import ScoreError, checked_score

Message = dict[str, str]

MIN_DEMONSTRATION_CHARS = 80
"""A demonstration shortened below this shows nothing; it is dropped instead."""

_ELISION = "\n[…]\n"


@dataclass(frozen=True)
class RepromptTemplate:
    """The words around s and f. The feedback heading is neutral: correct rollouts get feedback too."""

    solution_heading: str = "A correct solution to this question:"
    feedback_heading: str = "Feedback from a peer on an attempt at this question:"
    instruction: str = "Now solve the original question correctly."


class FitEvent(StrEnum):
    """What had to go to stay within the budget; each is counted."""

    SOLUTION_SHORTENED = "solution_shortened"
    FEEDBACK_DROPPED = "feedback_dropped"
    SOLUTION_DROPPED = "solution_dropped"


@dataclass(frozen=True)
class Fitted:
    """What the teacher will see. mask: 1 if a solution or a feedback is left, else 0."""

    messages: list[Message]
    solution: str | None
    feedback: str | None
    events: tuple[FitEvent, ...]

    @property
    def mask(self) -> int:
        return int(self.solution is not None or self.feedback is not None)


def template_hash(template: RepromptTemplate) -> str:
    """sha256 of the template's texts, to be written into every record that depends on them."""
    return sha256(dumps(asdict(template), sort_keys=True).encode()).hexdigest()


# Its hash stands in each batch, so a change of one word shows there.
DEFAULT_TEMPLATE = RepromptTemplate()
TEMPLATE_HASH = template_hash(DEFAULT_TEMPLATE)


def teacher_messages(
    messages: Sequence[Mapping[str, str]],
    *,
    solution: str | None,
    feedback: str | None,
    template: RepromptTemplate = DEFAULT_TEMPLATE,
    remove_thinking: bool = True,
) -> list[Message]:
    """The student's messages with the last user turn extended by the solution and the feedback that exist.

    messages: dicts with role and content, the last one the question. Blank texts count as absent; without either
    the messages come back unchanged. Chat control tokens in all three texts arrive as text.
    """
    # Copies: the caller keeps the student's prompt.
    unchanged = [dict(message) for message in messages]
    if not unchanged or unchanged[-1].get("role") != "user":
        raise ValueError(
            f"messages: expected the last of at least one to be the user's question, got "
            f"{[message.get('role') for message in unchanged]}; pass the prompt that the student was given"
        )
    shown = _presentable(solution, remove_thinking)
    if shown is None and _presentable(feedback) is None:
        return unchanged
    content = neutralise_control_tokens(unchanged[-1]["content"])
    content += _section(template.solution_heading, shown)
    content += _section(template.feedback_heading, _presentable(feedback))
    return [*unchanged[:-1], {"role": "user", "content": f"{content}\n\n{template.instruction}"}]


def pick_demonstrations(
    rewards: Sequence[float], *, exclude_self: bool = True, success: float = SUCCESS_THRESHOLD
) -> list[int | None]:
    """For each rollout of a group the smallest sample index that is correct, or None.

    rewards: in sample order, never in order of arrival. exclude_self: a rollout does not show itself, so a lone
    success gets none.
    """
    correct = [j for j, reward in enumerate(rewards) if checked_score(reward, f"reward {j}") >= success]
    return [
        # Two are enough: only the first correct rollout itself is in need of the second.
        next((candidate for candidate in correct[:2] if not (exclude_self and candidate == j)), None)
        for j in range(len(rewards))
    ]


def loss_mask(demonstrations: Sequence[int | None], feedback: Sequence[str | None]) -> list[int]:
    """1 for each rollout with a demonstration or a feedback, else 0: its teacher would see nothing new."""
    if len(demonstrations) != len(feedback):
        raise ScoreError(
            f"loss mask: expected one feedback (or None) for each of {len(demonstrations)} rollouts, "
            f"got {len(feedback)}; keep both in sample order"
        )
    return [int(s is not None or _presentable(f) is not None) for s, f in zip(demonstrations, feedback, strict=True)]


def fit(
    messages: Sequence[Mapping[str, str]],
    *,
    solution: str | None,
    feedback: str | None,
    budget: int,
    count: Callable[[list[Message]], int],
    template: RepromptTemplate = DEFAULT_TEMPLATE,
    remove_thinking: bool = True,
) -> Fitted:
    """The teacher's messages within `budget` tokens.

    count: tokens of the rendered messages. Over budget, the solution is shortened from its middle; if that does not
    do, the feedback goes; then the solution. The student's own messages are never touched, whatever they count.
    """
    s, f = _presentable(solution, remove_thinking), _presentable(feedback)

    def build(solution: str | None, feedback: str | None) -> list[Message]:
        return teacher_messages(
            messages, solution=solution, feedback=feedback, template=template, remove_thinking=remove_thinking
        )

    def attempt(feedback: str | None, *events: FitEvent) -> Fitted | None:
        def fits(solution: str | None) -> bool:
            return count(build(solution, feedback)) <= budget

        if fits(s):
            return Fitted(build(s, feedback), s, feedback, events)
        short = None if s is None else _longest_fitting(s, fits)
        if short is None:
            return None
        return Fitted(build(short, feedback), short, feedback, (*events, FitEvent.SOLUTION_SHORTENED))

    dropped = () if f is None else (FitEvent.FEEDBACK_DROPPED,)
    fitted = attempt(f) or (attempt(None, *dropped) if s is not None and f is not None else None)
    if fitted is not None:
        return fitted
    events = dropped if s is None else (*dropped, FitEvent.SOLUTION_DROPPED)
    return Fitted(build(None, None), None, None, events)


def _presentable(text: str | None, remove_thinking: bool = False) -> str | None:
    """The text as it may be shown, None if nothing is left of it."""
    if text is None:
        return None
    shown = neutralise_control_tokens((strip_thinking(text) if remove_thinking else text).strip())
    return shown or None


def _section(heading: str, text: str | None) -> str:
    return "" if text is None else f"\n{heading}\n\n{text}"


def _longest_fitting(solution: str, fits: Callable[[str], bool]) -> str | None:
    """The solution with as little as possible cut out of its middle; None if less than the minimum would stay."""
    # A binary search, since each try renders and tokenizes the whole prompt. A shorter text may in rare cases have more
    # tokens; then a little less is kept than could be, and never too much.
    low, high, best = MIN_DEMONSTRATION_CHARS, len(solution) - 1, None
    while low <= high:
        keep = (low + high) // 2
        shortened = solution[: keep - keep // 2] + _ELISION + solution[len(solution) - keep // 2 :]
        if fits(shortened):
            best, low = shortened, keep + 1
        else:
            high = keep - 1
    return best
