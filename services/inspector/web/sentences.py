"""What happened, in words: one short line an event."""

from services.inspector.store.records import LoggedEvent
from shared.contracts.acting import SilenceAct
from shared.contracts.events import Acted, TutorSilenced


def sentence(event: LoggedEvent) -> str:
    """For the history of a run; the many small kinds are told by their name only."""
    match event.kind:
        case "status":
            return f"{event.status}, round {event.round}" + (f": {event.reason}" if event.reason else "")
        case "taken_up":
            return event.line[:1].upper() + event.line[1:]
        case "gate":
            gate = event.decision
            gaps = ", ".join(f"{student} {gap:.3f}" for student, gap in gate.gaps.items())
            return f"Gate of round {gate.round}: gaps {gaps}; τ {gate.tau:g}"
        case "evaluated":
            scores = ", ".join(f"{domain} {100 * score:.1f} %" for domain, score in event.scores.items())
            return f"{event.version} on {event.split}: {scores}"
        case "step":
            return f"{event.version}: loss {event.metrics.loss:.4f}, gradient norm {event.metrics.grad_norm:.3f}"
        case "lost":
            return f"Lost: {event.job_id} ({event.reason})"
        case "alarm":
            return f"Alarm, student {event.student}, step {event.step}: {event.reason}"
        case "silenced":
            return _silenced(event)
        case "acted":
            return _acted(event)
        case "gap":
            return f"A stretch of the log was not read ({event.reason}); it is missing here"
    return event.kind


def _silenced(event: TutorSilenced) -> str:
    """By the rule, which has counted answers, or by a person."""
    rule = f": it broke {event.broke} of {event.right} right answers"
    why = rule if event.by is None else f", by {event.by}: {event.reason}"
    return f"Tutor {event.tutor} silenced for {event.student}, rest of round {event.round}{why}"


def _acted(event: Acted) -> str:
    act = event.act
    what = f"tutor {act.tutor}" if isinstance(act, SilenceAct) else act.exchange.key
    done = f"; refused: {event.refused}" if event.refused else ""
    return f"{act.act.capitalize()} {what}, by {act.by}: {act.reason}{done}"
