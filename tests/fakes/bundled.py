"""The directory of a run that is done, with a report, hostile exchanges, a trace and a flag."""

import base64
from pathlib import Path

from services.inspector.config import STORE
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.config.loading import to_toml
from shared.contracts.events import Event
from shared.contracts.traces import Alternative, RolloutTrace, StepTrace, TokenTrace, step_trace
from shared.results.report import build_report
from tests.fakes.final_state import final_state, settings
from tests.unit.inspector.told import RUN, acted, feedback, revised

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "</dd></dl></article><img src=x onerror=\"document.title = 'taken'\">",
    "<svg onload=alert(1)><iframe src='https://example.invalid/'></iframe>",
    "{{ 7 * 7 }} {% raw %} ${7*7} <%= 7 %>",
    "]]> --> </script><script>alert(1)</script> javascript:alert(1)",
    "<link rel=stylesheet href=//example.invalid/x.css><style>*{display:none}</style>",
    "\u202eright to left\u202c \u2028 \ufeff &lt;b&gt; &amp;amp;",
)

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def write_run(run_dir: Path) -> None:
    """Exchange p0 is honest, flagged, revised and traced; the others hold one hostile text each, everywhere."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text(to_toml(settings()))
    report = build_report(final_state(run=RUN), settings(), {}, 1.0, {})
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.json").write_text(report.model_dump_json())
    (run_dir / "report" / "scores.png").write_bytes(base64.b64decode(PIXEL))
    honest: list[Event] = [
        feedback("p0"),
        revised("p0"),
        acted(1).model_copy(update={"act": _flag("reads like a paraphrase")}),
    ]
    hostile: list[Event] = [
        feedback(f"p{number}", question=text, response=text, raw=text, delivered=text, domain=text, removed=(text,))
        for number, text in enumerate(HOSTILE, start=1)
    ]
    store = Store(run_dir / STORE, RUN)
    store.append([Entry(f"{number}-0", event) for number, event in enumerate([*honest, *hostile], start=1)], "99-0")
    store.close()
    _write_trace(run_dir)


def _flag(reason: str) -> object:
    act = acted(1).act
    return act.model_copy(update={"reason": reason, "exchange": act.exchange.model_copy(update={"problem_id": "p0"})})  # type: ignore[union-attr]


def _write_trace(run_dir: Path) -> None:
    top = (Alternative(text="<b>", probability=0.9), Alternative(text='"', probability=0.05))
    tokens = [
        TokenTrace(
            text=text,
            divergence=nats,
            weight=1.0,
            student_logprob=-1.0,
            teacher_logprob=-2.0,
            student_top=top,
            teacher_top=top,
        )
        for text, nats in (("The", 0.001), (" force", 0.02), (" is", 0.2), (" 5 N.", 0.7))
    ]
    rollout = RolloutTrace(problem_id="p0", sample=0, all_tokens=4, tokens=tuple(tokens))
    trace = StepTrace(
        run=RUN, student="a", step=1, version="a@v0", batch_sha256="0" * 64, share=1.0, rollouts=(rollout,)
    )
    path = run_dir / step_trace("a", 1)
    path.parent.mkdir(parents=True)
    path.write_text(trace.model_dump_json())
