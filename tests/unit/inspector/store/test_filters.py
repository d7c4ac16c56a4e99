from collections.abc import Sequence
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.inspector.store.filters import (
    EVERY,
    FIRST_SPAN,
    Condition,
    ExchangeFilter,
    Order,
    TextSearch,
    conditions,
    spans,
    where_of,
)
from services.inspector.store.records import Entry, LoggedEvent
from services.inspector.store.store import Store
from tests.unit.inspector.told import acted, feedback, revised

HOSTILE = "<img src=x onerror=alert(1)> Robert'); DROP TABLE exchanges;-- NEAR(a b) \"half"


@pytest.fixture
def filled(store: Store) -> Store:
    events: list[LoggedEvent] = [
        feedback("p1", 0, verdict="match:force", correct=True),
        feedback("p2", 1, verdict="match:mass", domain="chemistry", round=2, step=2, removed=("It is 6.",)),
        feedback("p3", 2, verdict="no_match", student="b", tutor="a", delivered=None),
        feedback("p4", 3, verdict="fb_none", raw=None, delivered=None, response="H2O boils"),
        feedback("p5", 4, question=HOSTILE, response=HOSTILE, raw=HOSTILE),
        revised("p1", 0, change="same"),
        revised("p4", 3, change="fixed"),
        acted(1),
        acted(2, "exclude", refused="its batch is sealed"),
    ]
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, 1)], "9-0")
    return store


def found(store: Store, **wanted: object) -> list[str]:
    page = store.newest_exchanges(ExchangeFilter(**wanted), before=None, limit=50)
    return [exchange.problem_id for exchange in page]


def found_at_hand(store: Store, q: str) -> list[str]:
    """Of all that the store has, in two parts, of which the second has some of the first again."""
    everything = store.newest_exchanges(ExchangeFilter(), before=None, limit=50)
    with closing(TextSearch(q)) as search:
        first, rest = search.among(everything[:3]), search.among(everything[2:])
    return [exchange.problem_id for exchange in [*first, *(one for one in rest if one not in first)]]


@pytest.mark.parametrize(
    ("wanted", "problems"),
    [
        ({}, ["p5", "p4", "p3", "p2", "p1"]),
        ({"round": 2}, ["p2"]),
        ({"step": 2}, ["p2"]),
        ({"student": "b"}, ["p3"]),
        ({"tutor": "a"}, ["p3"]),
        ({"domain": "chemistry"}, ["p2"]),
        ({"problem_id": "p4"}, ["p4"]),
        ({"correct": True}, ["p1"]),
        ({"correct": False, "domain": "physics", "verdict": "fb_none"}, ["p4"]),
        ({"verdict": "match"}, ["p5", "p2", "p1"]),
        ({"verdict": "match:mass"}, ["p2"]),
        ({"verdict": "all_generic"}, []),
        ({"change": "fixed"}, ["p4"]),
        ({"change": "broke"}, []),
        ({"q": "boil"}, ["p4"]),
        ({"q": "MULTIPLY force"}, ["p3", "p2", "p1"]),
        ({"q": "multiply boils"}, []),
        ({"q": "  "}, ["p5", "p4", "p3", "p2", "p1"]),
        ({"student": "a' OR '1'='1"}, []),
        ({"min_step": 2}, ["p2"]),
        ({"max_step": 1, "verdict": "match"}, ["p5", "p1"]),
        ({"min_chars": 9, "max_chars": 9}, ["p4"]),
        ({"min_nats": 0}, []),
        ({"acted": "flag"}, ["p1"]),
        ({"acted": "exclude"}, []),
        ({"redacted": True}, ["p2"]),
        ({"redacted": False, "verdict": "match"}, ["p5", "p1"]),
        ({"student": "a", "verdict": "match", "min_step": 1, "max_step": 1}, ["p5", "p1"]),
    ],
)
def test_each_filter_finds_what_it_says(filled: Store, wanted: dict[str, object], problems: list[str]) -> None:
    assert found(filled, **wanted) == problems
    if wanted.keys() == {"q"}:
        assert found_at_hand(filled, str(wanted["q"])) == problems


BY_ID = "SCAN exchanges"
BY_STEP = "SEARCH exchanges USING INDEX exchanges_told (student=? AND step"
FOUND = "SEARCH exchanges USING INTEGER PRIMARY KEY (rowid=?)"


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ({"student": "a"}, BY_ID),
        ({"student": "a", "min_step": 2}, BY_ID),
        ({"student": "a", "verdict": "match"}, "SEARCH exchanges USING INDEX exchanges_verdict (verdict=?)"),
        ({"student": "a", "q": "force"}, FOUND),
        ({"acted": "flag"}, FOUND),
        ({"redacted": True}, "SCAN exchanges USING INDEX exchanges_redacted"),
        ({"student": "a", "step": 2}, BY_STEP),
        ({"student": "a", "min_step": 2, "max_step": 3}, BY_STEP),
    ],
    ids=str,
)
def test_a_page_of_a_filter_reads_no_further_than_its_rows(store: Store, wanted: dict[str, object], first: str) -> None:
    """Of one step all are sorted: those of others are not among them."""
    plan = plan_of(store, conditions(ExchangeFilter.model_validate(wanted)))
    assert plan[0].startswith(first)
    assert ("USE TEMP B-TREE FOR ORDER BY" in plan) == (first == BY_STEP)


def test_of_old_rows_an_index_of_words_tells_no_newer_ones(store: Store) -> None:
    plan = plan_of(store, conditions(ExchangeFilter(q="force 加速度"), (0, 2)))
    asked = [line for line in plan if "VIRTUAL TABLE" in line]
    assert len(asked) == 2
    assert all(line.endswith("><") for line in asked), "both ends are the index's own"


IDS = st.integers(0, 5 * FIRST_SPAN)


@given(after=IDS, before=st.one_of(IDS, st.just(EVERY[1])), newest=IDS, order=st.sampled_from(["ASC", "DESC"]))
def test_the_stretches_of_a_search_are_all_its_ids_once(after: int, before: int, newest: int, order: Order) -> None:
    found = spans((after, before), newest, order)
    step = 1 if order == "ASC" else -1
    ids = [range(low + 1, min(high, newest + 1))[::step] for low, high in found]
    assert [id_ for stretch in ids for id_ in stretch] == list(range(after + 1, min(before, newest + 1)))[::step]
    assert len(ids[0]) <= FIRST_SPAN
    assert max(high for _, high in found) == before, "what comes meanwhile is in it, too"


def test_a_search_finds_its_next_ones_however_far_away(store: Store) -> None:
    for number, id_ in enumerate((1, 2, 9 * FIRST_SPAN, 99 * FIRST_SPAN)):
        with store._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO sqlite_sequence (rowid, name, seq) VALUES (1, 'exchanges', ?)", (id_ - 1,)
            )
        store.append([Entry(f"{number + 1}-0", feedback(f"p{number}", raw=f"odd {number % 2}"))], f"{number + 1}-0")
    word, odd = ExchangeFilter(q="o"), ExchangeFilter(q="odd 1")
    assert [each.problem_id for each in store.newest_exchanges(word, before=None, limit=3)] == ["p3", "p2", "p1"]
    assert [each.problem_id for each in store.newest_exchanges(odd, before=9 * FIRST_SPAN, limit=3)] == ["p1"]
    assert [each.problem_id for each in store.exchanges_between(word, after=1, limit=2)] == ["p1", "p2"]
    assert [each.problem_id for each in store.exchanges_between(odd, after=2, limit=1)] == ["p3"]


def plan_of(store: Store, found: Sequence[Condition]) -> list[str]:
    where, parameters = where_of(found)
    sql = f"EXPLAIN QUERY PLAN SELECT exchanges.* FROM exchanges WHERE {where} ORDER BY exchanges.id DESC LIMIT 50"
    return [row["detail"] for row in store._database.read(sql, parameters)]


@pytest.mark.parametrize("q", ["onerror", "<img src=x", "Robert'); DROP TABLE", "NEAR(a b)", '"half', HOSTILE])
def test_hostile_text_is_found_as_text(filled: Store, q: str) -> None:
    assert found(filled, q=q) == ["p5"] == found_at_hand(filled, q)


@pytest.fixture
def worldwide(store: Store) -> Store:
    events: list[LoggedEvent] = [
        feedback("zh", 0, question="一辆汽车的加速度是多少？", response="用牛顿第二定律。"),
        feedback("ja", 1, question="磁場の強さはいくらですか。", raw="運動エネルギーを見直して。"),
        feedback("ko", 2, question="수소 원자의 운동에너지는 얼마인가?"),
        feedback("th", 3, question="ความเร็วของรถเป็นเท่าไร", raw=None, delivered=None, verdict="fb_none"),
        feedback("hi", 4, question="यदि विद्युत धारा दुगुनी हो", response="प्रतिरोध आधा होगा"),
        feedback("en", 5, question="What is the speed?", response="Newton's law, pH 7"),
        feedback("mix", 6, question="溶液のpH値は？ Newton", raw="100%_正しい"),
    ]
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, 1)], "7-0")
    return store


@pytest.mark.parametrize(
    ("q", "problems"),
    [
        ("加速度", ["zh"]),
        ("第二定律", ["zh"]),
        ("汽车", ["zh"]),
        ("车", ["zh"]),
        ("エネルギー", ["ja"]),
        ("磁場", ["ja"]),
        ("値", ["mix"]),
        ("pH値", ["mix"]),
        ("PH値は", ["mix"]),
        ("newton 溶液", ["mix"]),
        ("溶液 加速度", []),
        ("newton", ["mix", "en"]),
        ("운동", ["ko"]),
        ("에너지", ["ko"]),
        ("ความเร็ว", ["th"]),
        ("รถ", ["th"]),
        ("विद्युत", ["hi"]),
        ("प्रति", ["hi"]),
        ("प्रतिध", []),
        ("रोध", []),
        ("%_正しい", ["mix"]),
        ('"加速度', []),
        ("正し* OR 加速度", []),
        ("质量", []),
    ],
)
def test_words_of_other_scripts_are_found(worldwide: Store, q: str, problems: list[str]) -> None:
    assert found(worldwide, q=q) == problems == found_at_hand(worldwide, q)


@pytest.mark.parametrize(
    "q",
    [
        '"',
        "'",
        "*",
        "^a",
        "a AND",
        "OR",
        "NOT",
        "NEAR(",
        "raw:",
        "{raw}: x",
        "-",
        "a + b",
        "()",
        "\x00",
        '""*"',
        "😀",
    ],
)
def test_operators_of_the_search_engine_are_words(filled: Store, q: str) -> None:
    assert isinstance(found(filled, q=q), list)


@given(q=st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_no_text_breaks_the_search(filled: Store, q: str) -> None:
    assert set(found(filled, q=q)) <= {"p1", "p2", "p3", "p4", "p5"}


def test_an_unknown_field_and_an_unknown_change_are_errors() -> None:
    with pytest.raises(ValidationError, match="colour"):
        ExchangeFilter.model_validate({"colour": "red"})
    with pytest.raises(ValidationError, match="change"):
        ExchangeFilter(change="better")
