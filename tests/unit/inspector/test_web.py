"""What the pages are made of: vendored files, marked texts, places in the feed, and what a run's page holds."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from services.inspector.http.stream import PAGE
from services.inspector.run.view import RunData
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.log import SMALL_KINDS
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from services.inspector.web.assets import WEB, Assets
from services.inspector.web.folding import FeedRow
from services.inspector.web.live import MAX_BEHIND, Place, live_feed, newest_place, news, place_of
from services.inspector.web.marking import marked_concept, reviewed
from services.inspector.web.rendering import COLOURS, sentence
from services.inspector.web.run_tables import run_tables
from shared.bus.port import DeadLetter
from shared.contracts.events import Evaluated, Event, RunTakenUp, StepApplied, TutorSilenced
from shared.errors import ConfigError
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from shared.results.grid import Named
from shared.results.timeline import timeline
from tests.fakes.figures import step_metrics
from tests.unit.inspector.store.test_usage import beat
from tests.unit.inspector.told import RUN, EventLog, acted, config, feedback, revised, status
from tests.unit.results.test_timeline import STEP, applied

VENDOR = WEB / "vendor"


def test_vendored_files_have_their_sums() -> None:
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    there = {path.relative_to(VENDOR).as_posix(): path for path in VENDOR.rglob("*") if path.is_file()}
    del there["SHA256SUMS"]
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == listed
    assert all(
        any(path.name == "LICENSE" for path in folder.iterdir()) for folder in VENDOR.iterdir() if folder.is_dir()
    )


def test_every_student_s_colour_is_in_the_page_and_its_charts() -> None:
    style, charts = ((WEB / "static" / name).read_text() for name in ("page.css", "run.js"))
    assert sorted(re.findall(r"[.]student-(\d+) ", style), key=int) == [str(number) for number in range(COLOURS)]
    [tints] = re.findall(r"const TINTS = (.*);", charts)
    drawn = json.loads(tints)
    assert len(drawn) == len(set(drawn)) == COLOURS
    assert re.findall(r"[.]student-\d+ \{ color: var\((.*?)\)", style) == drawn


def test_only_files_that_were_read_at_the_start_are_served() -> None:
    assets = Assets()
    assert assets.get("page.css") is not None
    assert [assets.get(name) for name in ("../site.py", "SHA256SUMS", "htmx/LICENSE", "/etc/passwd")] == [None] * 4


@pytest.mark.parametrize(
    ("question", "word", "marked"),
    [
        ("What is the Voltage? A voltage is…", "voltage", ["Voltage", "voltage"]),
        ("Use the focal-length (focal).", "focal", ["focal-length", "focal"]),
        ("The mass of $\\mathrm{CO_2}$ is", "co2", ["mathrm{CO_2"]),
        ("汽车的加速度是多少？溶液的ｐＨ值。", "加速度", ["加速度"]),
        ("溶液的ｐＨ值不变。", "ph值", ["ｐＨ值"]),
        ("운동에너지는 얼마인가?", "에너지", ["에너지"]),
        ("L'énergie cinétique", "énergie", ["L'énergie"]),
        ("Nothing here", "torque", []),
        ("Nothing here", None, []),
    ],
)
def test_the_concept_is_marked_as_the_anchor_reads_it(question: str, word: str | None, marked: list[str]) -> None:
    pieces = marked_concept(question, word)
    assert [piece.text for piece in pieces if piece.mark] == marked
    assert "".join(piece.text for piece in pieces) == question


@pytest.mark.parametrize(
    ("raw", "removed"),
    [
        (" <concept>x</concept> Think again.", [("<concept>x</concept>", "concept_tag")]),
        ("The answer is B.  Look at the units.", [("The answer is B.", "reveal")]),
        ("<think>B, surely</think>Look.", [("<think>B, surely</think>", "thinking")]),
        ("Look at the units.", []),
        ("", []),
    ],
)
def test_what_the_rules_take_out_keeps_its_reason(raw: str, removed: list[tuple[str, str]]) -> None:
    pieces = reviewed(raw)
    assert [(piece.text.strip(), piece.mark) for piece in pieces if piece.removed and piece.text.strip()] == removed
    assert "".join(piece.text for piece in pieces) == raw


@pytest.mark.parametrize(
    ("raw", "answer", "struck"),
    [
        (" <concept>ether</concept> Use 710 * liters = 1420", "1420", [" = 1420"]),
        ("<concept>ether</concept> So 3 - 1 = 2. <think>hm</think>Then 1 + 1 = 2 again.", "2", [" = 2", " = 2 again"]),
        ("<concept>ether</concept> Not = 120, = 12 then.", "12", [" = 12 then"]),
        ("<concept>ether</concept> = 12", "12", ["= 12"]),
    ],
)
def test_what_a_format_takes_out_is_struck_through_where_it_stood(raw: str, answer: str, struck: list[str]) -> None:
    problem = Problem("p1", "chemistry", "ether", "Find the grams of 2 liters of ether.", answer)
    judged = format_named("integer").judge_feedback(raw, problem)
    assert judged.removed
    pieces = reviewed(raw, judged.removed, judged.delivered)
    assert "".join(piece.text for piece in pieces) == raw
    left = "".join(piece.text for piece in pieces if not piece.removed).strip()
    assert left == (judged.delivered or "")
    assert [piece.text for piece in pieces if piece.mark == "reveal"] == struck


def test_what_does_not_come_out_is_not_marked_at_a_guess() -> None:
    assert [piece.text for piece in reviewed("Use 2 = 2 = 2", (" = 2",), "Use 2")] == ["Use 2 = 2 = 2"]
    many = "= 2 " * 500
    assert not any(piece.removed for piece in reviewed(many, ("= 2",) * 400, "cut…"))


def test_a_place_is_read_back_and_anything_else_refused() -> None:
    assert place_of(str(Place(12, 340))) == Place(12, 340)
    for wrong in ("", "12", "12.x", "-1.2", "1.2.3", "9" * 30 + ".1"):
        with pytest.raises(ConfigError, match="load the page again"):
            place_of(wrong)


def test_a_message_is_one_message_whatever_is_in_it(store: Store) -> None:
    start = newest_place(store)
    tell(store, feedback("p1"))
    [told], _ = news(store, ExchangeFilter(), start, lambda _: "a\r\n\r\nevent: x\rid: 9\n\ndata: b")
    wire = told.decode()
    assert wire.endswith("\n\n")
    assert wire.count("\n\n") == 1
    *lines, place = wire.strip().split("\n")
    assert place.startswith("id: ")
    assert len(lines) == 6
    assert all(line.startswith("data: ") for line in lines)


def silenced(**changes: Any) -> TutorSilenced:
    counts = {"break_rate": 0.0, "low": 0.0, "chance": 0.0, "bound": 0.5}
    return TutorSilenced(at=1.0, source="x", round=2, step=5, tutor="b", student="a", **(counts | changes))


def taken_up() -> RunTakenUp:
    return RunTakenUp(
        at=1.0,
        source="x",
        taken_from="state.json",
        why="Redis holds nothing of this run",
        status="TRAINING",
        round=2,
        steps={"b": 4, "a": 3},
        sealed={"a": 4, "b": 4},
    )


def tell(store: Store, *events: object, start: int = 1) -> None:
    entries = [Entry(f"{number}-0", event) for number, event in enumerate(events, start)]  # type: ignore[arg-type]
    store.append(entries, entries[-1].id)


def test_news_are_told_once_and_in_order(store: Store) -> None:
    start = newest_place(store)
    tell(store, feedback("p1"), feedback("p2"), revised("p1"), status(2))
    messages, place = news(store, ExchangeFilter(), start, lambda row: row.first.problem_id)
    assert [data(each) for each in messages] == ["p1", "p2", "p1", "Training, round 2"]
    assert news(store, ExchangeFilter(), place, lambda row: row.first.problem_id) == ([], place)
    halfway = place_of(messages[0].decode().strip().split("\n")[-1].removeprefix("id: "))
    rest, _ = news(store, ExchangeFilter(), halfway, lambda row: row.first.problem_id)
    assert [data(each) for each in rest] == ["p2", "p1", "Training, round 2"]


def test_news_of_a_search_ask_the_index_of_the_whole_log_for_nothing(store: Store) -> None:
    """It would gather every match in the log, for each row."""
    tell(store, feedback("p1", 0), feedback("p1", 1, question="Why?", response="", raw=""))
    start = newest_place(store)
    others = [feedback(f"o{number}", question="Why?", response="", raw="") for number in range(PAGE)]
    tell(store, feedback("p1", 2), feedback("p2"), revised("p1"), revised("o1"), *others, feedback("p3"), start=3)
    asked: list[str] = []
    with store._database._reader() as connection:  # of which there is one, for one thread
        connection.set_trace_callback(asked.append)
    wanted = ExchangeFilter(q="forc")
    told, halfway = news(store, wanted, start, samples)
    rest, place = news(store, wanted, halfway, samples)
    assert [data(each) for each in told + rest] == ["p1 2 0", "p2 0", "p3 0", "p1 2 0"]
    assert place.exchange == store.newest_exchange_id()
    assert asked and not any("MATCH" in sql for sql in asked)


def samples(row: FeedRow) -> str:
    return " ".join([row.first.problem_id, *(str(exchange.sample) for exchange in row.exchanges)])


def test_what_is_stored_while_rows_are_written_is_told_next(store: Store) -> None:
    start = newest_place(store)
    tell(store, feedback("p1"))

    def write(row: FeedRow) -> str:
        if store.head == 1:
            tell(store, feedback("p2"), status(2), start=2)
        return row.first.problem_id

    messages, place = news(store, ExchangeFilter(), start, write)
    assert [data(each) for each in messages] == ["p1"]
    assert store.head > place.position
    messages, place = news(store, ExchangeFilter(), place, write)
    assert [data(each) for each in messages] == ["p2", "Training, round 2"]
    assert place == newest_place(store)


def test_who_is_far_behind_is_told_to_load_again(store: Store) -> None:
    start = newest_place(store)
    tell(store, *(feedback(f"p{number}") for number in range(MAX_BEHIND + 1)))
    messages, place = news(store, ExchangeFilter(), start, lambda row: row.first.problem_id)
    assert [data(each) for each in messages] == [str(MAX_BEHIND + 1)]
    assert place == newest_place(store)


@pytest.mark.parametrize("place", [Place(1, 9), Place(9, 1), Place(9, 9)])
def test_who_comes_from_an_earlier_log_is_told_to_load_again_and_hears_what_comes(place: Place, store: Store) -> None:
    tell(store, feedback("p1"))

    async def check() -> None:
        rows = live_feed(store, ExchangeFilter(), place, lambda row: row.first.problem_id, lambda: False)
        with anyio.fail_after(10):
            first = [await anext(rows) for _ in range(2)]
            tell(store, feedback("p2"), start=2)
            assert [data(each) for each in (*first[1:], await anext(rows))] == ["anew", "p2"]

    anyio.run(check)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            silenced(broke=9, right=10),
            "Tutor b silenced for a, rest of round 2: it broke 9 of 10 right answers",
        ),
        (
            silenced(broke=0, right=0, by="admin key 0123abcd", reason="it quotes answers"),
            "Tutor b silenced for a, rest of round 2, by admin key 0123abcd: it quotes answers",
        ),
        (acted(1), "Flag a.s1.p1.0, by admin key 0123abcd: because 1"),
        (
            acted(2, "exclude", refused="its batch is sealed"),
            "Exclude a.s1.p1.0, by admin key 0123abcd: because 2; refused: its batch is sealed",
        ),
        (
            taken_up(),
            "Taken up from state.json (Redis holds nothing of this run): TRAINING, round 2; "
            "a at step 3, batch 4 sealed; b at step 4",
        ),
    ],
)
def test_what_people_read_of_an_event_live_and_in_the_history(event: Event, told: str, store: Store) -> None:
    start = newest_place(store)
    tell(store, event)
    messages, _ = news(store, ExchangeFilter(), start, lambda row: row.first.problem_id)
    assert [data(each) for each in messages] == [told]
    assert [sentence(each) for each in store.log.newest(SMALL_KINDS, 9)] == [told]


def data(wire: bytes) -> str:
    return "\n".join(line.removeprefix("data: ") for line in wire.decode().split("\n") if line.startswith("data: "))


def run_data(store: Store, log: EventLog, run_dir: Path) -> RunData:
    return RunData(RUN, run_dir, config(run_dir).settings, store, log)


def evaluated(version: str, physics: float, chemistry: float) -> Evaluated:
    scores = {"physics": physics, "chemistry": chemistry}
    return Evaluated(at=1.0, source="x", student="a", version=version, split="validation", round=1, scores=scores)


def test_a_run_at_a_glance(store: Store, log: EventLog, tmp_path: Path) -> None:
    step = StepApplied(at=3.0, source="x", student="a", round=1, step=1, version="a@v1", metrics=step_metrics())
    tell(store, evaluated("a@v0", 0.5, 0.1), evaluated("a@v1", 0.5, 0.3), feedback(), step)
    log.letters = [DeadLetter("1-0", "results", "no schema", 2, b"")]
    log.depths = {"jobs:a:rollout": (3, 1)}
    view = run_data(store, log, tmp_path).view()
    assert (view.status, view.problem) == (None, None)
    [improvement] = view.improvements
    assert (improvement.student, improvement.pareto) == ("a", True)
    assert [(row.queue, row.waiting) for row in view.queues if row.waiting] == [("jobs:a:rollout", 3)]
    assert [letter.reason for letter in view.dead_letters] == ["no schema"]
    tables = run_tables(view)
    [plane] = tables.planes
    assert (plane.points[0].x, plane.points[1].y < plane.points[0].y) == (plane.points[1].x, True)
    [[_, verdict, count, share]] = tables.own.verdicts.rows
    assert isinstance(verdict, Named)
    assert (verdict.text, verdict.href, count, share) == ("match", "/?student=a&verdict=match", 1, 1.0)
    assert [row[-1] for row in tables.scores.rows] == [0.0, pytest.approx(0.2)], "physics first, as in the settings"


def test_a_domain_that_nobody_is_strong_in_comes_after_the_students_own(
    store: Store, log: EventLog, tmp_path: Path
) -> None:
    first, last = evaluated("a@v0", 0.5, 0.1), evaluated("a@v1", 0.5, 0.3)
    further = [event.model_copy(update={"scores": {"biology": 0.5, **event.scores}}) for event in (first, last)]
    tell(store, *further)
    data = run_data(store, log, tmp_path)
    assert data.domains == list(data.view().domains) == ["physics", "chemistry", "biology"]
    [plane] = run_tables(data.view()).planes
    assert (plane.x.domain, plane.y.domain, len(plane.points)) == ("physics", "chemistry", 2)


def test_a_run_s_time_is_read_off_its_log_with_what_its_services_used(
    store: Store, log: EventLog, tmp_path: Path
) -> None:
    tell(store, *STEP)
    versions = {"versions": {"a@v1": "c", "a@v0": "d"}, "served_since": {"a@v1": 31.0 - 180}}
    serving = beat(31.0).model_copy(update=versions)
    log.up = [serving, beat(31.0, replica="9")]
    store.usage.put([*log.up, beat(60.0, "broker")])
    view = run_data(store, log, tmp_path).view()
    assert view.timeline == timeline(STEP, ("a", "b"), steps=4) is not None
    assert [(point.service, point.cores) for point in view.usage] == [("student-a", 2.0)]
    assert [row[:3] for row in run_tables(view).services.rows] == [
        [Named("student-a", "0"), "ready", [Named("a@v1", "3 min"), Named("a@v0", "")]],
        [Named("student-a", "9"), "ready", None],
    ]


def test_only_the_newest_steps_are_read_and_of_a_group_s_feedback_one(store: Store) -> None:
    tell(store, status(1), applied("a", 1, 1.0), feedback(sample=0), feedback(sample=1), revised(sample=1), revised())
    tell(store, applied("a", 2, 1.0), start=7)
    assert [event.kind for event in store.log.since_step(1)] == ["step"]
    assert [event.kind for event in store.log.since_step(2)] == ["step", "feedback", "revised", "step"]
    assert len(store.log.since_step(3)) == 5


def test_the_newest_steps_are_counted_student_by_student(store: Store) -> None:
    steps = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3)]
    tell(store, *(applied(student, step, 1.0) for student, step in steps))
    told = [(event.student, event.step) for event in store.log.since_step(2) if isinstance(event, StepApplied)]
    assert told == steps[1:]


@pytest.mark.parametrize(("state", "told"), [("{}", "state cannot be read"), (None, None)])
def test_what_cannot_be_read_is_said_and_the_rest_shown(
    store: Store, log: EventLog, tmp_path: Path, state: str | None, told: str | None
) -> None:
    log.state = state
    tell(store, feedback())
    view = run_data(store, log, tmp_path).view()
    assert (told is None) == (view.problem is None)
    assert told is None or told in (view.problem or "")
    assert len(view.verdicts) == 1


def test_without_redis_the_log_and_the_file_have_most_of_it(store: Store, log: EventLog, tmp_path: Path) -> None:
    tell(store, feedback())
    log.away = True
    view = run_data(store, log, tmp_path).view()
    assert "did not answer" in (view.problem or "")
    assert len(view.verdicts) == 1
