"""Whether a chat template has its model think before it answers, as far as text can tell.

A teacher that is shown the solution made thinking models worse, by up to 17 % of their accuracy, where it helped
instruction-tuned ones: it trains away the places at which they turn back (arXiv 2607.05184). So whoever begins or plans
such a run is told.
"""

from transformers import PreTrainedTokenizerBase

from shared.errors import PromptError
from shared.method.sanitizing import shadow
from shared.method.thinking import thinking_spans
from shared.modeling.chat import rendered

_ASKED = "question"
_ANSWER = "answer"


def thinking(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What in its template has the model think, in words that go on after "its template"; None if nothing does.

    A template that can be told not to think is, wherever prompts are rendered.
    """
    turns = [{"role": "user", "content": _ASKED}]
    try:
        prompt, told_to = rendered(tokenizer, turns), rendered(tokenizer, turns, thinking=True)
    except PromptError:
        return None  # what a template refuses is told of by who renders a run's own prompts
    behind = prompt.rpartition(_ASKED)[2]
    spans = thinking_spans(shadow(behind + _ANSWER), in_feedback=False)
    if spans and spans[-1][1] > len(behind):
        return "begins an answer inside a block of reasoning"
    # Either the block is there and empty, or the template went another way than it would have.
    if spans or prompt != told_to:
        return None
    source = tokenizer.chat_template
    if isinstance(source, str) and thinking_spans(shadow(source), in_feedback=False):
        return "knows a block of reasoning, and no way to leave it out"
    return None


def thinking_note(student: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A sentence for who begins a run, without its full stop; None if the template does not think."""
    how = thinking(tokenizer)
    if how is None:
        return None
    return (
        f"student {student} thinks before it answers: its template {how}. Self-distillation from a teacher that is "
        "shown the solution was seen to make thinking models worse (arXiv 2607.05184); choose another model, or a "
        f"template without it as students.{student}.chat_template"
    )
