"""An engine for tests of what surrounds one: it notes every call, and fails, waits or dies when told to."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from services.student.engines.port import (
    EngineAwayError,
    EngineHealth,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    Piece,
    TokenChoice,
    TokenDetail,
    UnknownVersionError,
)
from shared.contracts.messages import ChatMessage
from shared.modeling.checksums import file_checksum
from tests.fakes.waiting import WAIT_S

BASE_CHECKSUM = "b" * 64
POISON = "poison"
CONTEXT = 4096


class FakeEngine:
    """Answers `<version>:<seed>`; a prompt that contains POISON makes the whole call fail.

    losses: so many calls are lost on the way; suspect_when_lost: it is SUSPECT from then on. during: called in
    `generate`. hold: set it to keep `generate` waiting until `go` is set (or it is cancelled, or everybody is gone).
    """

    context = CONTEXT
    vocabulary_size = 256
    continuous = False
    hashes = False
    finished = 0

    def __init__(self, slots: int = 8, *, guides: bool = False) -> None:
        self.slots = slots
        self.guides = guides
        self.rendering: str | None = None
        self.calls: list[list[GenerationRequest]] = []
        self.loads: list[str] = []
        self.healthy = True
        self.state = EngineState.READY
        self.losses, self.suspect_when_lost = 0, False
        self.probed: tuple[float, ...] | None = None
        self.dies_of_poison = False
        self.lies_about_checksum = False
        self.during: Callable[[], None] = lambda: None
        self.hold = False
        self.started, self.go = threading.Event(), threading.Event()
        self._versions: dict[str, str] = {}
        self.asleep = False
        self.woken = 0

    def sleep(self) -> None:
        assert not self.asleep
        self.asleep = True

    def wake(self) -> None:
        assert self.asleep
        self.asleep, self.woken = False, self.woken + 1

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:  # noqa: ARG002
        assert not self.asleep, "asked to load while it sleeps"
        self.loads.append(version)
        real = file_checksum(*sorted(directory.glob("*.safetensors"))) if directory else BASE_CHECKSUM
        self._versions[version] = "0" * 64 if directory and self.lies_about_checksum else real
        return self._versions[version]

    def unload(self, version: str) -> None:
        del self._versions[version]

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        assert not self.asleep, "asked while it sleeps"
        self.calls.append(list(requests))
        missing = {request.version for request in requests} - self._versions.keys()
        if missing:
            raise UnknownVersionError(f"{missing} not loaded")
        self._wait(requests, cancelled)
        if self.losses:
            self.losses -= 1
            self.state = EngineState.SUSPECT if self.suspect_when_lost else self.state
            raise EngineAwayError("lost on the way")
        self.during()
        if any(POISON in _asked(request) for request in requests):
            self.healthy = not self.dies_of_poison
            raise RuntimeError("out of memory")
        return [_generation(request) for request in requests]

    def health(self) -> EngineHealth:
        if not self.healthy:
            return EngineHealth(EngineState.DEAD, "the device is lost")
        return EngineHealth(self.state, "fake")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return sum(len(message.content) for message in messages)

    def probe(self, _version: str, _expected: Sequence[float]) -> tuple[float, ...] | None:
        return self.probed

    def close(self) -> None:
        """Nothing was started."""

    def _wait(self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None) -> None:
        self.started.set()
        for _ in range(int(WAIT_S / 0.01)):
            if not self.hold or self.go.wait(0.01):
                return
            if cancelled is not None and cancelled.is_set():
                raise GenerationCancelledError("told to stop")
            if all(request.unwanted for request in requests):
                return
        raise AssertionError(f"nobody let the engine go within {WAIT_S} s")


def _asked(request: GenerationRequest) -> str:
    if request.prompt is None:
        return request.messages[-1].content
    return request.prompt if isinstance(request.prompt, str) else "".join(map(chr, request.prompt))


def _generation(request: GenerationRequest) -> Generation:
    """Three tokens, the parts of the text at the colon; told one by one."""
    parts = [request.version, ":", str(request.seed)]
    logprobs = [-0.5, -0.25, -0.125]
    choices = [TokenChoice(part.encode(), logprob) for part, logprob in zip(parts, logprobs, strict=True)]
    wanted = request.top_logprobs
    details = tuple(TokenDetail(each, (each,)[:wanted]) for each in choices) if wanted is not None else ()
    if request.audience is not None:
        for index, part in enumerate(parts):
            request.audience.tell(Piece(part, details[index : index + 1]))
    return Generation(
        text="".join(parts),
        prompt_token_ids=list(_asked(request).encode()),
        token_ids=[1, 2, 3],
        logprobs=logprobs,
        finish_reason="stop",
        details=details,
    )
