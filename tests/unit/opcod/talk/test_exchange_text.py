"""An exchange reads alike as it happens, from the log of the inspector, and on the page of a bundle."""

from pathlib import Path

from opcod.commands.feedback import describe
from opcod.talk.text import brief, likeliest
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.contracts.traces import Alternative
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


def test_a_token_is_quoted_so_that_all_of_it_is_seen() -> None:
    top = tuple(Alternative(text=text, probability=0.25) for text in ("\n", "é'\"", " ", "fourth"))
    assert likeliest(top) == r'"\n" 0.25, "é' + "'" + r'\"" 0.25, " " 0.25'
