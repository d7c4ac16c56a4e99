"""A watched vLLM server that answers by heart, on a clock that is moved by hand."""

import time
from collections.abc import Callable
from pathlib import Path

from services.student.engines.port import GenerationRequest
from services.student.engines.vllm.client import VllmClient
from services.student.engines.vllm.health import Bounds, Condition
from services.student.engines.vllm.server import Server
from services.student.engines.vllm.wire import ADAPTERS, Needs
from shared.contracts.messages import ChatMessage, Sampling
from tests.fakes.student import HandClock
from tests.fakes.vllm import FakeVllm
from tests.fakes.waiting import WAIT_S

HANG_S = 6.0


class Bench:
    """A found server on a clock that is moved by hand: nothing happens but in `turn`."""

    def __init__(self, directory: Path, needs: Needs = ADAPTERS, copies: int | None = 1) -> None:
        self.needs = needs
        self.copies = copies
        self.fake = FakeVllm(directory / "s", needs)
        self.fake.start()
        self.clock = HandClock()
        self.failure: Exception | None = None
        self.server = self._server()

    def _server(self) -> Server:
        bounds = Bounds(hang_s=HANG_S, start_s=5.0, max_restarts=1)
        return Server(self._begin, self.needs, bounds, self.clock, lambda: "(no log)", self.copies)

    def _begin(self) -> tuple[VllmClient, None]:
        if self.failure is not None:
            raise self.failure
        return VllmClient(self.fake.url, None), None

    def turn(self, passed_s: float = 1.0) -> Condition:
        self.clock.now_s += passed_s
        self.server.turn()
        return self.server.health.condition

    def hold(self, version: str) -> None:
        """As the engine does."""
        self.server.life.client.load(version, Path("/tmp"))
        self.server.loaded(version, version, self.server.life)

    def close(self) -> None:
        self.fake.hung.clear()
        self.server.stop()
        self.fake.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def request(version: str = "a@v1", max_tokens: int = 3) -> GenerationRequest:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=max_tokens)
    return GenerationRequest(version, (ChatMessage(role="user", content="x"),), sampling, seed=2**62)
