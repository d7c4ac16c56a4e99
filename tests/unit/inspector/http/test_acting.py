"""What people did, in the store; and an inspector whose broker is away."""

from fastapi.testclient import TestClient

from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.contracts.events import Acted
from tests.unit.inspector.told import P1, acted, feedback


def found(store: Store, act: str) -> list[str]:
    wanted = ExchangeFilter.model_validate({"acted": act})
    return [exchange.problem_id for exchange in store.newest_exchanges(wanted, before=None, limit=9)]


def test_acts_are_the_history_of_their_exchange_in_order_and_once(store: Store) -> None:
    other = P1.model_copy(update={"problem_id": "p2"})
    told = [acted(3), acted(1, "exclude"), acted(2, exchange=other)]
    store.append([Entry("1-0", feedback("p1")), Entry("2-0", feedback("p2"))], "2-0")
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(told, start=3)], "5-0")
    store.append([Entry("6-0", told[0])], "6-0")  # told again, after Redis came back from its files
    first = store.exchange(1)
    assert first is not None and first.key == "a.s1.p1.0"
    assert [(act.at, act.act, act.reason) for act in first.history] == [
        (1.0, "exclude", "because 1"),
        (3.0, "flag", "because 3"),
    ]
    assert (found(store, "flag"), found(store, "exclude")) == (["p2", "p1"], ["p1"])
    newest = [event for event in store.log.newest(("acted",), 2) if isinstance(event, Acted)]
    assert [event.act.id[-1] for event in newest] == ["3", "2"]


def test_what_was_refused_is_shown_and_does_not_count(store: Store) -> None:
    store.append([Entry("1-0", feedback()), Entry("2-0", acted(1, "exclude", refused="its batch is sealed"))], "2-0")
    exchange = store.exchange(1)
    assert exchange is not None
    assert [act.refused for act in exchange.history] == ["its batch is sealed"]
    assert found(store, "exclude") == []


def test_without_a_broker_acting_is_not_available(client: TestClient, store: Store) -> None:
    store.append([Entry("1-0", feedback())], "1-0")
    for path, body in (("/v1/feedback/1/flag", {}), ("/v1/silence", {"tutor": "b"})):
        answer = client.post(path, json={"reason": "x", **body})
        assert answer.status_code == 503
        assert "no broker is up" in answer.json()["error"]["message"]
