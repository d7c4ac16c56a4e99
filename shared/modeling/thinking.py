"""Hidden reasoning of a model: whether its chat template has it think, as far as text can tell, and its text with the
marks of such reasoning in it.

A teacher that is shown the solution made thinking models worse, by up to 17 % of their accuracy, where it helped
instruction-tuned ones: it trains away the places at which they turn back (arXiv 2607.05184). So whoever begins or plans
such a run is told.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from shared.errors import ModelError, PromptError
from shared.method.sanitizing import shadow
from shared.method.thinking import thinking_spans
from shared.modeling.chat import opened_block, rendered

_MESSAGE = "<|message|>"
"""Special within a mark of several tokens, gpt-oss's `<|channel|>analysis<|message|>`."""

_ASKED = "question"
_ANSWER = "answer"


class AnswerText:
    """Token ids of an answer to its text: special tokens are skipped, but for the marks of hidden reasoning.

    Whoever reads the text has no tokenizer, and could not tell thoughts from words without their marks. Where there is
    no mark it is what the tokenizer makes of the ids. opened: what comes before the text of an answer to messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        named = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self.marks = frozenset(token for token, content in named.items() if _is_mark(content))
        self.opened = opened_block(tokenizer)
        self.skipped = frozenset(named).union(tokenizer.all_special_ids) - self.marks

    def of(self, ids: Sequence[int]) -> str:
        if self.marks.isdisjoint(ids):
            text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        else:
            text = self.tokenizer.decode([each for each in ids if each not in self.skipped], skip_special_tokens=False)
        return text


def _is_mark(content: str) -> bool:
    """Of a block that it opens or closes, alone or with words behind it."""
    opening = shadow(content.replace("/", ""))
    begun = (opening, f"{opening}analysis")
    return content == _MESSAGE or any(thinking_spans(each, in_feedback=True) for each in begun)


def require_thoughts_in_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that thinks between special tokens: no message may hold those, so that its answers cannot be kept
    as texts. Raises ModelError.
    """
    marks = AnswerText(tokenizer).marks
    if marks and thinking(tokenizer) is not None:
        names = ", ".join(sorted(tokenizer.convert_ids_to_tokens(sorted(marks))))
        raise ModelError(
            f'specialize.source = "self" keeps answers as texts, and this model thinks between special tokens '
            f"({names}), which no text may hold: name a file of examples (students.<name>.examples), set "
            'specialize.source = "problems", or choose another model'
        )


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
