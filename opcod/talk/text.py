"""An exchange as text on a terminal: a few lines, or all there is."""

import json
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from services.inspector.http.views import ActView, ExchangeView, TraceView
from shared.contracts.acting import ExchangeRef
from shared.contracts.events import FeedbackGiven, Revised
from shared.contracts.traces import Alternative
from shared.errors import printable

MOST_DIVERGENT = 5


def indented(text: str) -> str:
    """A text below the line that says whose it is; every line of it, as one at the margin would read as a new entry."""
    return textwrap.indent(printable(text.strip()), "  ")


def on_one_line(text: str) -> str:
    """A name that others have given, for the line that says what follows."""
    return printable(text).replace("\n", "\\n")


def brief(exchange: ExchangeView | FeedbackGiven) -> str:
    """Who said what of which answer, on a few lines; of a stored exchange also what came of it."""
    revision = _revision(exchange) if isinstance(exchange, ExchangeView) else ""
    return f"{_head(exchange)}\n{indented(exchange.response)}\n{indented(_said(exchange))}{revision}"


def revised(event: Revised) -> str:
    """The answer after the feedback, below whose it is."""
    return f"{_key(event)} (round {event.round}) revised: {event.change}\n{indented(event.text)}"


def whole(exchange: ExchangeView, trace: TraceView | str) -> str:
    """All of it; trace: why there is none, if it is a text."""
    return "\n".join(_lines(exchange, trace))


def _lines(exchange: ExchangeView, trace: TraceView | str) -> Iterator[str]:
    yield _head(exchange)
    made_by = f"{exchange.student} {exchange.version}, tutor {exchange.tutor_version}, {exchange.domain}"
    yield on_one_line(made_by)
    yield f"\nquestion\n{indented(exchange.question)}"
    yield f"\nresponse ({_mark(exchange)})\n{indented(exchange.response)}"
    yield f"\n{on_one_line(exchange.tutor)} said\n{indented(_said(exchange))}"
    yield f"\nlet through\n{indented(exchange.delivered or exchange.withheld or '(nothing)')}"
    if exchange.withheld is not None:
        yield "  (a person excluded it: the rollout trained as one without feedback)"
    for text in exchange.removed:
        yield indented(f"taken out: {text.strip()}")
    if exchange.revision is not None:
        yield f"\nrevised: {exchange.revision.change}\n{indented(exchange.revision.text)}"
    yield from (_act(act) for act in exchange.history)
    yield "\ndivergence of student and self-teacher, by token"
    yield from ([f"  {trace}"] if isinstance(trace, str) else _trace(trace))


def _head(exchange: ExchangeView | FeedbackGiven) -> str:
    verdict, marks = exchange.verdict, ""
    if isinstance(exchange, ExchangeView):
        verdict = f"{verdict}:{exchange.word}" if exchange.word else verdict
        marks = "".join(f" [{act.act}]" for act in exchange.history if act.refused is None)
    head = f"{_key(exchange)} (round {exchange.round}, {_mark(exchange)}) <- {exchange.tutor} [{verdict}]{marks}"
    return on_one_line(head)


def _key(told: ExchangeView | FeedbackGiven | Revised) -> str:
    ref = ExchangeRef(student=told.student, step=told.step, problem_id=told.problem_id, sample=told.sample)
    return on_one_line(ref.key)


def _mark(exchange: ExchangeView | FeedbackGiven) -> str:
    return "right" if exchange.correct else "wrong"


def _said(exchange: ExchangeView | FeedbackGiven) -> str:
    return (exchange.raw or "").strip() or "(nothing)"


def _revision(exchange: ExchangeView) -> str:
    return f"\n  revised: {exchange.revision.change}" if exchange.revision is not None else ""


def _act(act: ActView) -> str:
    at = datetime.fromtimestamp(act.at, UTC).isoformat(timespec="seconds")
    refused = f" (refused: {act.refused})" if act.refused else ""
    return f"\n{act.act}, {at}, {on_one_line(act.by)}: {indented(act.reason + refused).lstrip()}"


def _trace(trace: TraceView) -> Iterator[str]:
    shown = sorted(trace.tokens, key=lambda token: -token.divergence)[:MOST_DIVERGENT]
    mean = sum(token.divergence for token in trace.tokens) / max(1, len(trace.tokens))
    yield f"  mean {mean:.4f} nats over {len(trace.tokens)} of {trace.all_tokens} tokens; the most:"
    for token in shown:
        student, teacher = likeliest(token.student_top), likeliest(token.teacher_top)
        line = f"  {token.divergence:.4f} at {_quoted(token.text)}: student {student} | self-teacher {teacher}"
        yield printable(line)


def likeliest(top: tuple[Alternative, ...]) -> str:
    """The three tokens that a model would rather choose, with their probabilities."""
    return ", ".join(f"{_quoted(each.text)} {each.probability:.2f}" for each in top[:3])


def _quoted(text: str) -> str:
    # Tokens begin with blanks and hold line breaks, which have to be seen and must not break the line.
    return json.dumps(text, ensure_ascii=False)
