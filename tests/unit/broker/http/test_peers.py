"""Which student is asked, and which of its replicas."""

import asyncio
from pathlib import Path

import pytest

from services.broker.http.peers import Peers, choose_replica
from services.broker.machine.machine import new_run
from shared.config.loading import load_settings
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.openai import ChatRequest
from shared.contracts.run import Split
from shared.http.remote import RemoteCalls
from tests.fakes.broker import BrokerBench
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.final_state import score
from tests.fakes.student import APART, prepare_models
from tests.fakes.student_server import serving
from tests.fakes.world import small_plan

DRAWS = [number / 100 for number in range(100)]


def replica(name: str, free_slots: int | None, *, versions: tuple[str, ...] = (), url: str | None = "") -> Heartbeat:
    held = dict.fromkeys(versions, "c" * 64)
    where = f"http://{name}" if url == "" else url
    return Heartbeat(
        service="student-a", replica=name, state="ready", url=where, versions=held, free_slots=free_slots, at=0.0
    )


def shares(replicas: list[Heartbeat], model: str = "a") -> dict[str, int]:
    """How often each is asked, of a hundred calls."""
    asked = [choose_replica(replicas, model, draw) for draw in DRAWS]
    return {beat.replica: asked.count(beat) for beat in replicas}


@pytest.mark.parametrize(
    ("free", "asked"),
    [
        ((8, 8), (50, 50)),
        ((6, 2), (75, 25)),
        ((0, 8), (0, 100)),
        ((0, 0), (50, 50)),
        ((None, None), (50, 50)),
        ((None, 4), (0, 100)),
    ],
)
def test_replicas_share_the_calls_by_their_free_slots(
    free: tuple[int | None, int | None], asked: tuple[int, int]
) -> None:
    assert tuple(shares([replica("0", free[0]), replica("1", free[1])]).values()) == asked


def test_a_version_is_asked_of_those_that_hold_it() -> None:
    """Before all have loaded it, one that has not would answer that there is no such model."""
    beats = [replica("0", 8, versions=("a@v1",)), replica("1", 1, versions=("a@v1", "a@v2"))]
    assert shares(beats, "a@v2") == {"0": 0, "1": 100}
    assert shares(beats, "a@v9") == shares(beats, "a"), "none holds it: whoever is asked says so"


def test_one_without_an_address_is_not_asked() -> None:
    assert shares([replica("0", 8, url=None), replica("1", 1)]) == {"0": 0, "1": 100}
    assert choose_replica([replica("0", 8, url=None)], "a", 0.5) is None
    assert choose_replica([], "a", 0.5) is None


@pytest.mark.parametrize(
    ("live", "chosen", "shown"),
    [("b@v2", "c", 0.5), ("b@v3", "c", 0.5), ("b@v1", "b", 1.0)],
    ids=["two", "three", "one"],
)
def test_the_peer_is_asked_whose_live_version_validates_best(live: str, chosen: str, shown: float) -> None:
    """b was the best, and has declined: it speaks as it was then only where that version is made live again."""
    settings = load_settings(preset="trio", environ={})
    state = new_run(small_plan(strong_domain=dict.fromkeys("abc", "physics")), incarnation=0, at=0.0)
    right = {("b", 1): 4, ("c", 1): 3, ("b", 2): 2, ("c", 2): 3}
    state.scores = [score(*of, {"physics": [count]}, Split.VALIDATION) for of, count in right.items()]
    state.version |= {"b": live, "c": "c@v2"}
    peers = Peers(settings, MemoryBus(MemoryServer()), lambda: state, RemoteCalls(9.0), key=None)
    assert peers.best_peer("a") == chosen
    told = {peer.name: peer.scores for peer in asyncio.run(peers.view()).peers}
    assert told == {"a": {}, "b": {"physics": shown}, "c": {"physics": 0.75}}


@pytest.mark.parametrize(("weights", "asked"), [("full", (9, 0)), ("lora", (0, 9))])
def test_by_a_students_name_the_version_in_training_is_asked_where_replicas_keep_versions_apart(
    run_dir: Path, weights: str, asked: tuple[int, int]
) -> None:
    """Replica 0 holds it, and has no slot free."""
    prepare_models(run_dir, "a", "b")
    bench = BrokerBench(run_dir, overrides=[*APART, f"run.weights={weights}"])
    with serving("a") as live, serving("a") as tutor:
        beats = (replica("0", 0, versions=("a@v0",), url=live.url), replica("1", 8, versions=("a@v7",), url=tutor.url))
        for beat in beats:
            bench.workers.beat(beat, ttl_s=60)
        peers = Peers(bench.settings, bench.workers, lambda: bench.state, RemoteCalls(9.0), key=None)
        request = ChatRequest.model_validate({"model": "a", "messages": [{"role": "user", "content": "?"}]})
        for _ in range(9):
            asyncio.run(peers.chat("a", request))
        assert (len(live.chats), len(tutor.chats)) == asked
