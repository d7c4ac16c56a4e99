"""What leads out of the deployment and what grows without bound: addresses from clients, redirects, metric labels."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel

import services.broker.metrics
import services.inspector.ingest
import services.student.metrics
import services.trainer.metrics  # noqa: F401 - registers its metrics
from services.broker.http.peers import Peers
from shared.contracts import http, openai
from shared.contracts.heartbeats import Heartbeat
from shared.errors import OpcodError
from shared.http.remote import RemoteCalls
from tests.fakes.broker import BrokerBench
from tests.fakes.student_server import serving

LIBRARIES = ("httpx2.", "requests.", "urllib.")
ROOT = Path(__file__).resolve().parents[2]
LABELS = {
    "alarm",
    "kind",
    "outcome",
    "reason",
    "stage",
    "student",
    "tutee",
    "tutor",
    "generation",
    "status",
    "queue",
    "place",
}
"""Each takes a few fixed words. None is a concept, a problem, a job, a version, a key or an address."""


NO_CLIENTS = frozenset(
    {
        "httpx2.EventSource",
        "httpx2.Timeout",
        "httpx2.Limits",
        "httpx2.AsyncHTTPTransport",
        "httpx2.HTTPTransport",
        "httpx2.URL",
    }
)


def client_calls() -> Iterator[tuple[str, ast.Call]]:
    """Everything in the product that opens HTTP connections."""
    for top in ("shared", "services", "opcod"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                if name.startswith(("httpx2.", "requests.", "urllib.")) and name not in NO_CLIENTS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_f28_every_http_client_ignores_proxies_and_redirects() -> None:
    found = dict(client_calls())
    assert len(found) >= 4
    for place, call in found.items():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_env") == "False", f"{place} heeds the environment's proxies"
        assert given.get("follow_redirects", "False") == "False", f"{place} follows redirects"


def test_f28_no_request_of_a_client_holds_an_address() -> None:
    bodies = vars(http) | vars(openai)
    requests = [each for name, each in bodies.items() if name.endswith("Request") and issubclass(each, BaseModel)]
    assert len(requests) == 3
    for request in requests:
        assert not {field for field in request.model_fields if "url" in field or "host" in field or "uri" in field}
        assert request.model_config["extra"] == "forbid"


def test_f28_a_peer_that_redirects_is_an_error_and_is_not_followed(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path, overrides=("bus.heartbeat_s=0.1",))
    with serving("a") as student, serving("b") as elsewhere:
        student.status = 307
        student.location = f"{elsewhere.url}/v1/chat/completions"
        beat = Heartbeat(service="student-a", replica="0", state="ready", url=student.url, at=0.0)
        bench.workers.beat(beat, ttl_s=60)
        peers = Peers(bench.settings, bench.workers, lambda: bench.state, RemoteCalls(1.0), key="secret")
        request = openai.ChatRequest.model_validate({"model": "a", "messages": [{"role": "user", "content": "?"}]})
        with pytest.raises(OpcodError):
            asyncio.run(peers.chat("a", request))
        assert elsewhere.chats == [] and elsewhere.keys == []


def test_f33_labels_of_metrics_are_few_fixed_words() -> None:
    ours: list[Any] = [
        each for each in list(REGISTRY._collector_to_names) if getattr(each, "_name", "").startswith("opcod_")
    ]
    assert len(ours) > 20
    for metric in ours:
        assert set(metric._labelnames) <= LABELS, f"{metric._name} has {metric._labelnames}"


def test_f33_reasons_and_outcomes_are_no_texts() -> None:
    """A label's value is a literal, or a name: never a formatted or foreign text."""
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "labels":
                assert not any(isinstance(each, ast.JoinedStr) for each in node.args), f"{path.name}:{node.lineno}"
