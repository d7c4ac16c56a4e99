"""The broker's HTTP API: runs, control, peers, asking."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from shared.bus.keys import BROKER, RESULTS
from shared.contracts.acting import Control
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.run import RunState
from shared.errors import UnavailableError
from tests.fakes.access import LOCAL, routes_without_scope
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.broker_api import broker_app
from tests.fakes.student_server import StudentServer, serving

QUESTION = "What voltage drives 9 A through a wire with a resistance of 2 ohm?"
ASK = "/v1/peers/ask"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, StudentServer]]:
    with serving("a") as a, serving("b") as b:
        yield {"a": a, "b": b}


@dataclass
class Ground:
    """A client of the API, the run behind it and its students."""

    client: TestClient
    bench: BrokerBench
    students: dict[str, StudentServer]

    def up(self, *names: str) -> None:
        for name in names:
            beat = Heartbeat(service=f"student-{name}", replica="0", state="ready", url=self.students[name].url, at=0.0)
            self.bench.workers.beat(beat, ttl_s=60)


@pytest.fixture
def ground(run_dir: Path, servers: dict[str, StudentServer]) -> Iterator[Ground]:
    for server in servers.values():
        server.reset()
    bench = BrokerBench(run_dir, overrides=("bus.heartbeat_s=0.1",))
    with TestClient(broker_app(bench, peers_key="secret"), base_url=LOCAL) as client:
        yield Ground(client, bench, servers)


def test_every_route_says_which_scope_it_needs(ground: Ground) -> None:
    app = ground.client.app
    assert isinstance(app, FastAPI)
    assert routes_without_scope(app) == []


def test_the_run_is_shown(ground: Ground) -> None:
    assert ground.client.get("/v1/runs").json() == [RUN]
    shown = ground.client.get(f"/v1/runs/{RUN}")
    assert RunState.model_validate(shown.json()) == ground.bench.state


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/runs/other"), ("POST", "/v1/runs/other/pause")])
def test_another_run_is_not_found(ground: Ground, method: str, path: str) -> None:
    answer = ground.client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (404, "invalid_request_error")
    assert "serves run test, not 'other'" in error["message"]


@pytest.mark.parametrize("action", ["pause", "resume", "abort"])
def test_control_is_a_message_on_results(ground: Ground, action: str) -> None:
    answer = ground.client.post(f"/v1/runs/{RUN}/{action}")
    assert answer.status_code == 202
    taken = ground.bench.workers.take([(RESULTS, BROKER)], "other", limit=100, block_s=0)
    [control] = [delivery.message for delivery in taken if isinstance(delivery.message, Control)]
    assert (control.action, control.id) == (action, answer.json()["accepted"])


def test_an_unknown_action_is_refused(ground: Ground) -> None:
    assert ground.client.post(f"/v1/runs/{RUN}/restart").status_code == 404


def test_silencing_a_tutor_is_no_control_of_the_run(ground: Ground) -> None:
    answer = ground.client.post(f"/v1/runs/{RUN}/silence", json={"tutor": "nobody", "reason": "talks nonsense"})
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]["message"]


def test_pausing_through_the_api_pauses_the_run(ground: Ground) -> None:
    ground.client.post(f"/v1/runs/{RUN}/pause")
    ground.bench.turn()
    assert ground.client.get(f"/v1/runs/{RUN}").json()["paused"] == "asked for through the API"


def test_peers_show_scores_gap_and_who_is_up(ground: Ground) -> None:
    ground.up("a")
    before = ground.client.get("/v1/peers").json()["peers"]
    assert [(peer["gap"], peer["replicas"], peer["scores"]) for peer in before] == [(None, 1, {}), (None, 0, {})]
    ground.bench.finish()
    view = ground.client.get("/v1/peers").json()
    gate = ground.bench.state.gate
    assert gate is not None
    assert (view["run"], view["status"], view["round"]) == (RUN, "DONE", 1)
    assert [(peer["name"], peer["version"], peer["gap"]) for peer in view["peers"]] == [
        ("a", "a@v2", gate.gaps["a"]),
        ("b", "b@v2", gate.gaps["b"]),
    ]
    assert set(view["peers"][0]["scores"]) == {"physics", "chemistry"}


def test_peers_show_whom_each_may_tutor(ground: Ground) -> None:
    ground.bench.finish()
    gate = ground.bench.state.gate
    assert gate is not None
    for peer in ground.client.get("/v1/peers").json()["peers"]:
        assert peer["tutees"] == [p.student for p in gate.pairs if p.tutor == peer["name"] and p.cognizant]


def test_who_gives_feedback_may_be_named_and_is_another(ground: Ground) -> None:
    ground.up("a", "b")
    answer = ground.client.post(ASK, json={"problem": QUESTION, "first": "b", "tutor": "a"})
    assert answer.json()["exchanges"][0]["feedback"]["student"] == "a"
    assert ground.students["a"].asked[0].agent_domain == "chemistry", "what its tutee is strong in"
    itself = ground.client.post(ASK, json={"problem": QUESTION, "first": "b", "tutor": "b"})
    assert itself.status_code == 400 and "another student than b" in itself.json()["error"]["message"]


def test_asking_goes_from_answer_over_feedback_to_the_revised_answer(ground: Ground) -> None:
    ground.up("a", "b")
    answer = ground.client.post(ASK, json={"problem": QUESTION, "first": "a", "seed": 5})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["answer"]["student"], body["answer"]["version"]) == ("a", "a@v7")
    (exchange,) = body["exchanges"]
    told = exchange["feedback"]
    assert (told["student"], told["version"]) == ("b", "b@v7")
    assert (told["verdict"], told["concept"]) == ("match:voltage", "voltage")
    assert told["delivered"] == "Multiply the current with the resistance."
    assert exchange["revised"]["text"] == body["final"] == ground.students["a"].answer
    first, again = ground.students["a"].chats
    assert first.messages[-1].content == QUESTION
    assert again.messages[-1].content == f"{QUESTION}\nFeedback: Multiply the current with the resistance."
    assert (first.seed, again.seed, *(request.seed for request in ground.students["b"].asked)) == (5, 5, 5)
    assert ground.students["b"].asked[0].response == ground.students["a"].answer
    assert ground.students["a"].keys == ["Bearer secret"] * 2


def test_feedback_that_is_not_passed_on_leaves_the_answer_as_it_is(ground: Ground) -> None:
    ground.up("a", "b")
    ground.students["b"].feedback = "Multiply them."
    body = ground.client.post(ASK, json={"problem": QUESTION, "exchanges": 3, "seed": 5}).json()
    told = [exchange["feedback"] for exchange in body["exchanges"]]
    assert [(each["verdict"], each["delivered"]) for each in told] == [("no_concept_tag", None)] * 3
    assert [exchange["revised"] for exchange in body["exchanges"]] == [None] * 3
    assert (body["final"], len(ground.students["a"].chats)) == (ground.students["a"].answer, 1)
    assert len({asked.seed for asked in ground.students["b"].asked}) == 3


def test_each_exchange_is_about_the_last_answer(ground: Ground) -> None:
    ground.up("a", "b")
    ground.students["b"].answers = [" u = 1", " u = 2", " u = 18"]
    body = ground.client.post(ASK, json={"problem": QUESTION, "first": "b", "exchanges": 2}).json()
    ground.students["a"].feedback = ""
    assert [asked.response for asked in ground.students["a"].asked] == [" u = 1", " u = 2"]
    assert [exchange["revised"]["text"] for exchange in body["exchanges"]] == [" u = 2", " u = 18"]
    assert (body["answer"]["text"], body["final"]) == (" u = 1", " u = 18")


@pytest.mark.parametrize("exchanges", [0, 4])
def test_one_to_three_exchanges_are_taken(ground: Ground, exchanges: int) -> None:
    answer = ground.client.post(ASK, json={"problem": QUESTION, "exchanges": exchanges})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "exchanges")


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_a_question_of_nothing_is_refused_wherever_one_is_taken(ground: Ground, blank: str) -> None:
    ground.up("a", "b")
    asked = ground.client.post(ASK, json={"problem": blank})
    chat = ground.client.post(CHAT, json={"model": "peers", "messages": [{"role": "user", "content": blank}]})
    assert (asked.status_code, asked.json()["error"]["param"]) == (422, "problem")
    assert (chat.status_code, chat.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize("act", ["flag", "exclude"])
def test_an_act_without_a_reason_is_refused(ground: Ground, act: str) -> None:
    answer = ground.client.post(f"/v1/feedback/a.s1.p.0/{act}", json={"reason": "  "})
    assert answer.json()["error"]["message"] == 'reason: String should have more than white space, got "  "'


def test_stages_come_as_events_and_then_the_whole(ground: Ground) -> None:
    ground.up("a", "b")
    headers = {"accept": "text/event-stream"}
    answer = ground.client.post(ASK, json={"problem": QUESTION, "seed": 5, "exchanges": 2}, headers=headers)
    told = events(answer.text)
    assert [name for name, _ in told] == ["answer", "feedback", "revised", "feedback", "revised", "done"]
    whole = ground.client.post(ASK, json={"problem": QUESTION, "seed": 5, "exchanges": 2}).json()
    assert told[-1][1] == whole
    assert [body for _, body in told[:3]] == [whole["answer"], *whole["exchanges"][0].values()]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, body) of each server-sent event."""
    frames = [dict(line.split(": ", 1) for line in frame.splitlines()) for frame in text.strip().split("\n\n")]
    return [(frame["event"], json.loads(frame["data"])) for frame in frames]


def test_a_student_that_fails_on_the_way_is_the_last_event(ground: Ground) -> None:
    ground.up("a")
    answer = ground.client.post(ASK, json={"problem": QUESTION}, headers={"accept": "text/event-stream"})
    told = events(answer.text)
    assert (answer.status_code, [name for name, _ in told]) == (200, ["answer", "error"])
    assert "student b is not up" in told[1][1]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (ASK, {"problem": QUESTION, "first": "c"}, 400),
        (CHAT, {"model": "c@v1", "messages": [{"role": "user", "content": "hi"}]}, 404),
    ],
)
def test_an_unknown_student_is_named(ground: Ground, path: str, body: dict[str, object], status: int) -> None:
    answer = ground.client.post(path, json=body)
    assert answer.status_code == status
    assert "expected a student of a, b, got 'c'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("up", [(), ("a",)])
def test_a_student_that_is_down_is_named(ground: Ground, up: tuple[str, ...]) -> None:
    ground.up(*up)
    answer = ground.client.post(ASK, json={"problem": QUESTION, "first": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert f"student {'b' if up else 'a'} is not up" in answer.json()["error"]["message"]


def test_a_student_that_says_it_is_ready_only_now_is_waited_for(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.up("b")
    seen = ground.bench.workers.heartbeats

    def late() -> list[Heartbeat]:
        beats = seen()
        ground.up("a")
        return beats

    monkeypatch.setattr(ground.bench.workers, "heartbeats", late)
    assert ground.client.post(ASK, json={"problem": QUESTION, "first": "a"}).status_code == 200


def test_a_student_that_does_not_answer_any_more_is_named(ground: Ground) -> None:
    gone = Heartbeat(service="student-a", replica="0", state="ready", url="http://127.0.0.1:9", at=0.0)
    ground.bench.workers.beat(gone, ttl_s=60)
    answer = ground.client.post(ASK, json={"problem": QUESTION, "first": "a"})
    assert answer.status_code == 503
    assert "student a did not answer" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("status", "seen"), [(503, 503), (429, 503), (500, 500)])
def test_a_students_refusal_is_passed_on(ground: Ground, status: int, seen: int) -> None:
    ground.up("a", "b")
    ground.students["a"].status = status
    answer = ground.client.post(ASK, json={"problem": QUESTION, "first": "a"})
    assert answer.status_code == seen
    assert "student a" in answer.json()["error"]["message"]


REFUSED = {"message": "System role not supported", "type": "invalid_request_error", "code": "c", "param": "messages"}
PEERS = {"model": "peers", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.mark.parametrize(
    ("path", "body", "param"), [(ASK, {"problem": QUESTION}, "problem"), (CHAT, PEERS, "messages")]
)
def test_what_a_student_finds_wrong_is_told_of_the_field_that_was_sent(
    ground: Ground, path: str, body: dict[str, object], param: str
) -> None:
    ground.up("a", "b")
    ground.students["a"].status, ground.students["a"].error = 400, REFUSED
    answer = ground.client.post(path, json=body)
    said = "student a refused this: System role not supported"
    assert answer.status_code == 400
    assert answer.json()["error"] == REFUSED | {"message": said, "param": param}


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"temperature": 0, "top_p": 0, "max_tokens": 1500, "stop": ["x", "y"]},
        {"temperature": 0.3, "top_p": 1, "max_completion_tokens": 9, "stop": "x"},
    ],
)
def test_a_chat_with_the_peers_passes_its_wishes_on_and_leaves_the_rest_to_the_student(
    ground: Ground, wishes: dict[str, object]
) -> None:
    ground.up("a", "b")
    assert ground.client.post(CHAT, json=PEERS | wishes).status_code == 200
    for asked in ground.students["a"].chats:
        sent = asked.model_dump(mode="json", exclude_unset=True, exclude={"model", "messages", "seed"})
        assert sent == wishes
    assert len(ground.students["a"].chats) == 2


@pytest.mark.parametrize("body", [PEERS | {"n": None, "logprobs": None, "stream": None}, PEERS | {"n": 1}])
def test_a_chat_with_the_peers_takes_null_as_absent(ground: Ground, body: dict[str, object]) -> None:
    ground.up("a", "b")
    assert ground.client.post(CHAT, json=body).status_code == 200


def test_null_exchanges_are_one(ground: Ground) -> None:
    ground.up("a", "b")
    body = {"problem": QUESTION, "exchanges": None, "first": None, "seed": None}
    assert len(ground.client.post(ASK, json=body).json()["exchanges"]) == 1


def test_a_chat_goes_to_the_student_of_its_model(ground: Ground) -> None:
    ground.up("a", "b")
    body = {"model": "b@v7", "messages": [{"role": "user", "content": "hi"}]}
    assert ground.client.post(CHAT, json=body).json()["model"] == "b@v7"
    assert (len(ground.students["a"].chats), ground.students["b"].chats[0].model) == (0, "b@v7")


def test_before_the_run_is_taken_up_the_api_says_so(ground: Ground) -> None:
    def none_yet() -> RunState:
        raise UnavailableError("the broker has not taken up the run yet; try again")

    with TestClient(broker_app(ground.bench, state=none_yet), base_url=LOCAL) as client:
        answers = [client.get(path) for path in ("/v1/runs", f"/v1/runs/{RUN}", "/v1/peers")]
    assert [answer.status_code for answer in answers] == [503, 503, 503]


@pytest.mark.parametrize("action", ["pause", "resume", "abort"])
def test_a_run_that_is_only_served_cannot_be_controlled(ground: Ground, action: str) -> None:
    with TestClient(broker_app(ground.bench, train=False), base_url=LOCAL) as client:
        answer = client.post(f"/v1/runs/{RUN}/{action}")
    assert answer.status_code == 409
    assert "opcod run --resume" in answer.json()["error"]["message"]


def test_one_replica_does_not_get_every_call(ground: Ground) -> None:
    """The first by name has no slot free, and would not answer."""
    full = Heartbeat(
        service="student-a", replica="0", state="ready", url="http://127.0.0.1:9", free_slots=0, versions={}, at=0.0
    )
    free = full.model_copy(update={"replica": "1", "url": ground.students["a"].url, "free_slots": 4})
    for beat in (full, free):
        ground.bench.workers.beat(beat, ttl_s=60)
    body = {"model": "a", "messages": [{"role": "user", "content": QUESTION}]}
    assert [ground.client.post(CHAT, json=body).status_code for _ in range(5)] == [200] * 5
