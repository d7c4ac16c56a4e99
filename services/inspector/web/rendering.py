"""The templates, with everything escaped that is put into them, and the words and numbers of the page.

An event is told in one short line, the same in the live feed and in the history of a run.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.inspector.store.records import LoggedEvent
from services.inspector.web.assets import Assets
from shared.contracts.acting import SilenceAct
from shared.contracts.events import Acted, TutorSilenced
from shared.http.access import Scope
from shared.method.anchoring import FB_NONE
from shared.results.figures import DELIVERED
from shared.results.grid import html

TEMPLATES = Path(__file__).parent / "templates"

COLOURS = 8
"""Of students, in page.css and run.js; with more of them some have the same."""

VERDICTS = {
    "match": "delivered: the concept occurs in the problem",
    "unanchored": "delivered unchecked, as the prompt asks for no concept",
    "no_match": "dropped: the concept does not occur in the problem",
    "no_concept_tag": "dropped: it names no concept",
    "empty": "dropped: the concept is empty",
    "all_generic": "dropped: the concept has only words that fit any problem",
    FB_NONE: "no feedback came",
}
"""Every verdict, and what became of the feedback."""


class Pages:
    """Renders templates of one run's page. `names`: what every page knows (the run's name, its students)."""

    def __init__(self, assets: Assets, names: Mapping[str, Any]) -> None:
        # autoescape=True, not by suffix: a template that is called something else would not be escaped.
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            # A name that is misspelt in a template raises; by default it would be rendered as nothing.
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "clock": clock_text,
            "state": state_words,
            "percent": percent,
            "number": number,
            "sentence": sentence,
            "table": html,
            "measured": lambda token, measure: measure.value(token),
            "probability": probability,
            "visible": visible,
            "capitalize_first": lambda text: text[:1].upper() + text[1:],
        }
        self._environment.globals |= {
            **names,
            "asset": assets.url,
            "verdicts": VERDICTS,
            "delivered_verdicts": DELIVERED,
            "link": link,
            "Scope": Scope,
        }

    def render(self, template: str, **values: Any) -> str:
        return self._environment.get_template(template).render(values)

    def page(self, template: str, *, scope: Scope | None, status_code: int = 200, **values: Any) -> HTMLResponse:
        """scope: what the reader may do; None for who is not known yet."""
        return HTMLResponse(self.render(template, scope=scope, **values), status_code)


def link(path: str, *queries: Mapping[str, Any]) -> str:
    """The path with all fields that are given; later ones win, None takes one out."""
    merged: dict[str, Any] = {}
    for query in queries:
        merged |= query
    kept = {name: field_text(value) for name, value in merged.items() if value is not None}
    return f"{path}?{urlencode(kept)}" if kept else path


def clock_text(at_s: float) -> str:
    """Seconds since the epoch as a date and time of day, which says that it is UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))


def state_words(status: str) -> str:
    """A run's state as headings and sentences begin with it: `FINAL_EVAL` -> `Final eval`."""
    return status.replace("_", " ").capitalize()


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def visible(text: str) -> str:
    """A token such that something of it can be seen; "" is part of a character that further tokens complete."""
    # Not escaped here, and no Markup: the template escapes it once, as any other text.
    return text.replace("\n", "⏎") or "·"


def probability(logprob: float) -> str:
    return percent(math.exp(logprob), 1)


def field_text(value: Any) -> str:
    """A filter's value as an address and a form spell it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def sentence(event: LoggedEvent) -> str:
    """For the history of a run; the many small kinds are told by their name only."""
    match event.kind:
        case "status":
            return f"{state_words(event.status)}, round {event.round}" + (f": {event.reason}" if event.reason else "")
        case "taken_up":
            return event.line[:1].upper() + event.line[1:]
        case "gate":
            gate = event.decision
            gaps = ", ".join(f"{name} {pair.gap:.3f}" for name, pair in gate.named_pairs().items())
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
