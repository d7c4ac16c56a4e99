"""What a run kept, as rows for others' training: critiques out of its exchanges, preference pairs out of its rollouts.

Pure. What always holds: nothing that a person excluded is given on; a text is whole, or its row says that it is cut.
"""

from collections.abc import Iterable, Iterator

from services.inspector.http.views import Critique, ExchangeView, PreferencePair
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample
from shared.contracts.events import SHOWN_CHARS
from shared.contracts.messages import ChatMessage
from shared.method.grading import SUCCESS_THRESHOLD

_ALIKE = Critique.model_fields.keys() & ExchangeView.model_fields.keys() - {"cut"}


def critiques(exchanges: Iterable[ExchangeView]) -> Iterator[Critique]:
    """Of those whose student answered again with the feedback before it: not of the control, which saw none."""
    for exchange in exchanges:
        revision = exchange.revision
        if revision is None or exchange.delivered is None:
            continue
        yield Critique(
            **{name: getattr(exchange, name) for name in _ALIKE},
            problem=exchange.question,
            answer=exchange.response,
            feedback=exchange.delivered,
            revised=revision.text,
            revised_correct=revision.after,
            change=revision.change,
            # Revised answers are told by events alone, which cut them.
            cut=exchange.cut or len(revision.text) >= SHOWN_CHARS,
        )


def preference_pairs(manifest: BatchManifest, group: BatchGroup) -> Iterator[PreferencePair]:
    """Each distinct wrong rollout of a problem once, beside a distinct right one, these in turn; none where all are
    right, or all wrong."""
    right = _distinct(sample for sample in group.samples if sample.reward >= SUCCESS_THRESHOLD)
    wrong = _distinct(sample for sample in group.samples if sample.reward < SUCCESS_THRESHOLD)
    for number, rejected in enumerate(wrong if right else ()):
        chosen = right[number % len(right)]
        yield PreferencePair(
            run=manifest.run,
            round=manifest.round,
            step=manifest.step,
            student=manifest.student,
            version=manifest.base_version,
            domain=group.domain,
            kind=group.kind,
            problem_id=group.problem_id,
            prompt=group.messages,
            chosen=_answer(chosen),
            rejected=_answer(rejected),
            chosen_sample=chosen.index,
            rejected_sample=rejected.index,
            rejected_finish_reason=rejected.finish_reason,
        )


def _distinct(samples: Iterable[BatchSample]) -> list[BatchSample]:
    """The first of each text, in order."""
    found: dict[str, BatchSample] = {}
    for sample in samples:
        found.setdefault(sample.text, sample)
    return list(found.values())


def _answer(sample: BatchSample) -> tuple[ChatMessage, ...]:
    return (ChatMessage(role="assistant", content=sample.text),)
