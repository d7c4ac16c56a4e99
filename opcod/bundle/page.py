"""A run as one page without a server: its report, its exchanges, and a filter over them in the browser.

What always holds: every text of a model or a person is escaped where it is put in; the page asks nobody for anything
and says so to the browser (a Content-Security-Policy that allows its own style and script by their hashes, and
nothing else); and it reads without JavaScript, which only filters.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opcod.report.text import PICTURES, grids, verdict_lines
from opcod.report.warning_text import warning_lines
from opcod.talk.text import likeliest
from services.inspector.http.views import ExchangeView, TraceView
from shared.contracts.traces import heat
from shared.results.grid import html
from shared.results.report import Report

PAGE_STYLE = ("services.inspector", "web/static/page.css")
"""The inspector's own sheet, so that a bundle looks as the page does."""

FILTERS = ("student", "tutor", "domain", "verdict", "round", "change", "correct")


@dataclass(frozen=True)
class Shown:
    """One exchange, and its trace where there is one."""

    exchange: ExchangeView
    trace: TraceView | None

    @property
    def values(self) -> dict[str, str]:
        """What the filter in the browser goes by."""
        exchange = self.exchange
        change = exchange.revision.change if exchange.revision else "not revised"
        made = {"change": change, "correct": "right" if exchange.correct else "wrong"}
        return {name: made.get(name) or str(getattr(exchange, name)) for name in FILTERS}


@dataclass(frozen=True)
class Excerpt:
    """The exchanges of a page: these of that many."""

    shown: Sequence[Shown]
    total: int


def render(report: Report, part: Excerpt, pictures: Path) -> str:
    """The page. pictures: the folder of the report's pictures; one that is not there is left out."""
    style, script = _style(), _own("bundle.js")
    environment = Environment(
        loader=PackageLoader("opcod.bundle", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"moment": moment, "heat": heat, "likeliest": likeliest, "table": html}
    return environment.get_template("bundle.jinja").render(
        report=report,
        verdict_lines=verdict_lines(report),
        warnings=warning_lines(report),
        grids=grids(report),
        part=part,
        choices={name: sorted({shown.values[name] for shown in part.shown}) for name in FILTERS},
        pictures=[(name.removesuffix(".png"), found) for name in PICTURES if (found := _picture(pictures / name))],
        # Our own files, unescaped: the policy's hashes are of these very characters, and an escaped quote would make
        # the browser refuse them. Nothing of a run may get into either.
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


def moment(at: float) -> str:
    """Seconds since the epoch as a date and time in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _style() -> str:
    package, name = PAGE_STYLE
    sheet = files(package) / name
    return _own("bundle.css") + (sheet.read_text(encoding="utf-8") if sheet.is_file() else "")


def _own(name: str) -> str:
    return (files("opcod.bundle") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    # Base64 of the digest's bytes, not of its hex digits, as the policy's grammar has it.
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _picture(path: Path) -> str | None:
    if not path.is_file():
        return None
    # Inside the page, since it asks nobody for anything; img-src lets only such addresses through.
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
