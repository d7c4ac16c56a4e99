"""How long the sequences of a run may get, and what of them a student does not take. Pure.

What could never be answered is refused before a run begins. What is too long only with the longest texts is noted: a
run loses the feedback or the revisions of such rollouts, and goes on.
"""

import sys
from collections.abc import Mapping

from opcod.planning.work import Lengths
from shared.config.settings import RunSettings

# Of the jobs that hold more than a question and its answer.
JOBS = {"feedback": "feedback", "revise": "a revision"}


def longest_sequence(settings: RunSettings, lengths: Lengths) -> int:
    """Tokens of the longest prompt with its answer that a student may have in hand."""
    answers = max(settings.rollout.max_tokens, settings.evaluation.max_tokens)
    return max([lengths.longest + answers, *_exchanges(settings, lengths).values()])


def _exchanges(settings: RunSettings, lengths: Lengths) -> dict[str, int]:
    """By kind of job, tokens of the longest sequence about a rollout; none where nobody tutors."""
    if settings.gate_mode == "never":
        return {}
    both = lengths.longest + settings.rollout.max_tokens + settings.feedback.max_tokens
    found = {"feedback": both + lengths.feedback_extra}
    if settings.feedback.revise_share:
        found["revise"] = both + lengths.teacher_extra + settings.evaluation.max_tokens
    return found


def too_long(settings: RunSettings, contexts: Mapping[str, int], lengths: Lengths) -> list[str]:
    """Of each student that could not answer its longest question, or not give feedback on any answer to a usual one:
    which setting asks for more than it takes.

    contexts: tokens that its model takes, 0 where that is not known. lengths: measured, for an estimate refuses nobody.
    """
    found = []
    for student, context in contexts.items():
        taken = _taken(settings, student, context)
        asked = {"rollout": settings.rollout.max_tokens, "evaluation": settings.evaluation.max_tokens}
        if settings.learns_from_itself(student):
            asked["specialize.sampling"] = settings.specialize.sampling.max_tokens
        room = max(0, taken - lengths.longest)
        found += [
            f"student {student} takes sequences of {taken} tokens, and its longest question has {lengths.longest} of "
            f"them before {name}.max_tokens = {tokens}: set {name}.max_tokens to at most {room}, or choose a model "
            "that takes more"
            for name, tokens in asked.items()
            if tokens > room
        ]
        usual, tokens = round(lengths.mean) + lengths.feedback_extra, settings.feedback.max_tokens
        if settings.gate_mode != "never" and usual + tokens > taken:
            found.append(
                f"student {student} takes sequences of {taken} tokens, and a usual prompt for feedback has {usual} of "
                f"them, without the answer that it is about, before feedback.max_tokens = {tokens}: lower it, choose a "
                "model that takes more, or set gate.mode = 'never'"
            )
    return found


def crowded(settings: RunSettings, contexts: Mapping[str, int], lengths: Lengths) -> list[str]:
    """Of each student that could not take the longest exchanges: what they need, and what to set. As `too_long`."""
    found = []
    for student, context in contexts.items():
        taken = _taken(settings, student, context)
        over = {JOBS[job]: tokens for job, tokens in _exchanges(settings, lengths).items() if tokens > taken}
        if not over:
            continue
        needed = " and ".join(f"{name} needs {tokens}" for name, tokens in over.items())
        room = settings.rollout.max_tokens + taken - max(over.values())
        advice = f"rollout.max_tokens to at most {room}" if room > 0 else "lower max_tokens of rollout and feedback"
        found.append(
            f"student {student} takes sequences of {taken} tokens, and with the longest texts {needed}: a rollout "
            f"whose exchange needs more gets none; set {advice}, or choose a model that takes more"
        )
    return found


def _taken(settings: RunSettings, student: str, context: int) -> int:
    section = settings.students[student]
    served = section.vllm.max_model_len if section.engine == "vllm" else None
    return min(context or sys.maxsize, served or sys.maxsize)
