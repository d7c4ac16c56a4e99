"""An exchange reads alike as it happens, from the log of the inspector, and on the page of a bundle."""

from pathlib import Path
from typing import Any

from opcod.commands.ask import stage_lines
from opcod.commands.feedback import describe
from opcod.commands.problems import entry
from opcod.talk.text import brief, likeliest, whole
from services.inspector.http.views import TraceView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.contracts.acting import ExchangeRef
from shared.contracts.events import Event, TutorSilenced
from shared.contracts.http import Advised, Answered
from shared.contracts.openai import Usage
from shared.contracts.traces import Alternative, TokenTrace
from shared.problems.problem import Problem
from tests.unit.inspector.told import RUN, acted, feedback, revised


def test_as_it_happens_and_afterwards(tmp_path: Path) -> None:
    told, silent = feedback("p1"), feedback("p2", raw=None, delivered=None, verdict="fb_none", correct=True)
    store = Store(tmp_path / "log.sqlite3", RUN)
    store.append([Entry("1-0", told), Entry("2-0", silent)], "2-0")
    second, first = store.newest_exchanges(ExchangeFilter(), before=None, limit=2)
    assert brief(first) == describe(told)
    assert brief(second) == describe(silent)
    assert describe(told).splitlines()[0] == "a.s1.p1.0 (round 1, wrong) <- b [match:force]"
    assert describe(silent).splitlines() == [
        "a.s1.p2.0 (round 1, right) <- b [fb_none]",
        "  The force is 5 N.",
        "  (nothing)",
    ]
    store.append([Entry("3-0", revised("p1")), Entry("4-0", acted(1))], "4-0")
    _, first = store.newest_exchanges(ExchangeFilter(), before=None, limit=2)
    store.close()
    head, *rest = describe(told).splitlines()
    assert brief(first).splitlines() == [f"{head} [flag]", *rest, "  revised: fixed"]
    assert describe(revised("p1")) == "a.s1.p1.0 (round 1) revised: fixed\n  The force is 6 N."


TEXT = "first\nsecond\n\n  deeper"
BELOW = ["  first", "  second", "", "    deeper"]


def test_every_line_of_a_text_stands_below_whose_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "log.sqlite3", RUN)
    told = feedback("p1", question=TEXT, response=TEXT, raw=TEXT, delivered=TEXT)
    store.append([Entry("1-0", told), Entry("2-0", acted(1, reason=TEXT))], "2-0")
    exchange = store.exchange(1)
    store.close()
    assert exchange is not None
    assert brief(exchange).splitlines()[1:] == BELOW + BELOW
    assert describe(revised("p1").model_copy(update={"text": TEXT})).splitlines()[1:] == BELOW
    lines = whole(exchange, "none").splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        brief(exchange).splitlines()[0],
        "a a@v0, tutor b@v0, physics",
        "question",
        "response (wrong)",
        "b said",
        "let through",
        "flag, 1970-01-01T00:00:01+00:00, admin key 0123abcd: first",
        "divergence of student and self-teacher, by token",
    ]


def test_the_stages_of_a_question_stand_below_who_speaks() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    raw = f"{TEXT}\nno"
    advised = Advised(
        exchange=1,
        student="b",
        version="b@v0",
        raw=raw,
        delivered=TEXT,
        concept="x",
        verdict="match:x",
        usage=usage,
    )
    lines = stage_lines(advised)
    assert "\n".join(lines).splitlines() == [f"{advised.heading}:", *BELOW, "  no", "passed on as:", *BELOW]


CONTROLS = "".join(
    map(chr, (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x200E, *range(0x202A, 0x202F), 0x2066, 0x2069))
)
"""C0 but for tab and line feed, DEL, C1, and what turns the order of reading."""

CLIPBOARD = "\x1b]52;c;eA==\x07\x1b[1A\x1b[2Kright"
HOSTILE = f"{CLIPBOARD} {CONTROLS}"
BLANKS = "\u3000\u00a0\u200d"


def test_a_text_of_somebody_else_moves_no_cursor(tmp_path: Path) -> None:
    texts: dict[str, Any] = dict.fromkeys(
        ("question", "response", "raw", "delivered", "domain", "tutor", "tutor_version"), HOSTILE
    )
    told = feedback(HOSTILE, **texts, removed=(HOSTILE,))
    changed = revised(HOSTILE).model_copy(update={"text": HOSTILE + BLANKS})
    silenced = TutorSilenced(
        at=0,
        source="broker",
        round=1,
        step=1,
        tutor=HOSTILE,
        student="a",
        broke=0,
        right=0,
        break_rate=0,
        low=0,
        chance=0,
        bound=0,
        by=HOSTILE,
        reason=HOSTILE,
    )
    act = acted(1, exchange=ExchangeRef(student="a", step=1, problem_id=HOSTILE, sample=0), reason=HOSTILE[:400])
    events: list[Event] = [told, changed, act]
    store = Store(tmp_path / "log.sqlite3", RUN)
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, start=1)], "3-0")
    exchange = store.exchange(1)
    store.close()
    assert exchange is not None and exchange.revision is not None and exchange.history
    top = (Alternative(text=HOSTILE, probability=0.5),)
    token = TokenTrace(
        text=HOSTILE,
        divergence=0.5,
        weight=1,
        student_logprob=-1,
        teacher_logprob=-1,
        student_top=top,
        teacher_top=top,
    )
    answer = Answered(
        student=HOSTILE,
        version=HOSTILE,
        text=HOSTILE,
        usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2),
    )
    problem = Problem(id=HOSTILE, domain="physics", kind="forces", question=HOSTILE, answer=HOSTILE)
    said = [
        *map(describe, (*events, silenced)),
        brief(exchange),
        whole(exchange, TraceView(problem_id="p", sample=0, version="a@v0", tokens=(token,), all_tokens=1)),
        *stage_lines(answer),
        entry(problem),
    ]
    for text in said:
        assert not set(text) & set(CONTROLS), text
        assert r"\x1b]52;c;eA==\x07\x1b[1A\x1b[2Kright" in text
    assert BLANKS in said[1], "what only looks like nothing stays"


def test_a_token_is_quoted_so_that_all_of_it_is_seen() -> None:
    top = tuple(Alternative(text=text, probability=0.25) for text in ("\n", "é'\"", " ", "fourth"))
    assert likeliest(top) == r'"\n" 0.25, "é' + "'" + r'\"" 0.25, " " 0.25'
