"""How a run goes, on a terminal and in a log: every text as it is, whoever wrote it."""

import pytest

from opcod.local.progress import RunProgress, make_console
from shared.contracts.acting import SilenceAct
from shared.contracts.events import Acted, AlarmRaised, Event, JobLost, RunTakenUp, StatusChanged, TutorSilenced
from shared.contracts.heartbeats import Heartbeat
from tests.fakes.final_state import final_state

HOSTILE = "[/x] [old] :x: http://[fd00:ab:5]:8090/"
"""What would end a command if it were read as markup, what would vanish, and what would become a picture."""

EVENTS: list[Event] = [
    StatusChanged(at=0, source="broker", status="FAILED", round=1, reason=HOSTILE),
    RunTakenUp(at=0, source="broker", taken_from="Redis", why=HOSTILE, status="GATED", round=1, steps={}, sealed={}),
    JobLost(at=0, source="broker", job_id=f"r1.a.s3.{HOSTILE}.rollout", student="a", reason=HOSTILE),
    AlarmRaised(at=0, source="broker", student="a", alarm="reward_collapse", round=1, step=3, reason=HOSTILE),
    TutorSilenced(
        at=0,
        source="broker",
        round=1,
        step=3,
        tutor="b",
        student="a",
        broke=0,
        right=0,
        break_rate=0,
        low=0,
        chance=0,
        bound=0,
        by=HOSTILE,
        reason=HOSTILE,
    ),
    Acted(
        at=0,
        source="broker",
        round=1,
        act=SilenceAct(id="0" * 32, tutor=HOSTILE, by=HOSTILE, reason=HOSTILE),
        refused=HOSTILE,
    ),
]


def test_texts_of_events_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(make_console(), 1, 1, 6).events(EVENTS)
    # As wide as a log: a line that is wider is folded between words.
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(HOSTILE) == 11


def test_texts_of_services_and_versions_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = final_state(version={"a": HOSTILE, "b": "b@v0"})
    beats = [Heartbeat(service="student-a", replica="0", state=HOSTILE, at=0)]
    RunProgress(make_console(), 1, 1, 6).update(state, beats)
    assert "done, round 1/1 | a: step" in capsys.readouterr().out
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "300"}.items():
        monkeypatch.setenv(name, value)
    with RunProgress(make_console(), 1, 1, 6) as drawn:
        drawn.update(state, beats)
    bars = capsys.readouterr().out
    assert f"student a {HOSTILE}" in bars
    assert f"student-a {HOSTILE}" in bars
