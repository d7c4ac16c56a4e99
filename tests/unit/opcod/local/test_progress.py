"""How a run goes, on a terminal and in a log: every text as it is, whoever wrote it, and none that ends the run."""

import errno
import io
import os
from collections.abc import Mapping

import pytest
from rich.console import Console

from opcod.commands.run import Follower
from opcod.local.progress import RunProgress, make_console, tell
from shared.contracts.acting import SilenceAct
from shared.contracts.events import Acted, AlarmRaised, Event, JobLost, RunTakenUp, StatusChanged, TutorSilenced
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import Status
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
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


def test_texts_of_events_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(make_console(), 1, 1, 6).say("\x1b]52;c;eA==\x07\x1b[1Aright \u202eleft")
    assert capsys.readouterr().out == "\\x1b]52;c;eA==\\x07\\x1b[1Aright \\u202eleft\n"


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


@pytest.mark.parametrize("width", [60, 80, 140])
def test_bars_tell_their_numbers_on_any_terminal(width: int) -> None:
    """What is cut is the note; who is not ready stands at its beginning."""
    seen = io.StringIO()
    screen = Console(file=seen, width=width, force_terminal=True, color_system=None)
    services = ("broker", "inspector", "student-a", "student-b", "trainer-a", "trainer-b")
    beats = [Heartbeat(service=name, replica="0", state="ready", at=0) for name in services]
    progress = RunProgress(screen, 5, 3, 6)
    with progress:
        progress.update(
            final_state(version={"a": "a@v15", "b": "b@v15"}),
            [*beats[:-1], beats[-1].model_copy(update={"state": "loading"})],
        )
    last = seen.getvalue().rsplit("done, round", 1)[1]
    assert "5/5" in last and last.count("0:00:0") == 4
    assert "student a a@v15" in last and "6/6" in last
    assert "trainer-b load" in last


def test_what_is_to_be_copied_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"opcod run --resume r1 --runs-dir {'/long' * 40}"
    tell(make_console(), f"Go on with `{command}`.")
    assert command in capsys.readouterr().out


class FullDisk(io.StringIO):
    """Takes nothing as long as it is full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


class StartedAgain:
    """The part of a launcher that is asked while a run is followed: its broker ends and is started again each time."""

    def watch(self) -> list[str]:
        return ["broker"]

    def pids(self) -> Mapping[str, int]:
        return {}


def test_bars_that_cannot_begin_end_no_run() -> None:
    disk = FullDisk()
    disk.full = True
    console = Console(file=disk, force_terminal=True)
    with RunProgress(console, 1, 1, 6) as progress:
        progress.update(final_state(), [])


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_that_cannot_be_written_ends_no_run(terminal: bool) -> None:
    server, disk = MemoryServer(), FullDisk()
    server.state = final_state().model_dump_json()
    bus, console = MemoryBus(server), Console(file=disk, markup=False, force_terminal=terminal, color_system=None)
    for event in EVENTS:
        bus.emit(event)
    with RunProgress(console, 1, 1, 6) as progress:
        disk.full = True
        follower = Follower(StartedAgain(), bus, progress, after="0")  # type: ignore[arg-type]
        state = follower.until(lambda: False)
        assert state is not None and state.status is Status.DONE
        disk.full = False
        progress.say("what comes after")
    said = disk.getvalue()
    assert "what comes after" in said
    assert "started again" not in said, "what could not be written is written late, and again with each line"
