"""Asking a real vLLM server, comparing its log-probs with a model's, and killing it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from services.student.engines.port import EngineAwayError, EngineState, Generation, GenerationRequest
from services.student.engines.vllm.engine import VllmEngine
from shared.contracts.messages import ChatMessage, Sampling
from shared.modeling.logprobs import token_logprobs
from tests.fakes.waiting import WAIT_S

HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=16)
RETURN_S = 300.0


class Versions(Protocol):
    def model(self, steps: int) -> PreTrainedModel: ...


def request(
    text: str, seed: int = 0, version: str = "a@v1", sampling: Sampling = HOT, **more: object
) -> GenerationRequest:
    return GenerationRequest(version, (ChatMessage(role="user", content=text),), sampling, seed, **more)  # type: ignore[arg-type]


def mean_difference(versions: Versions, version: str, samples: list[Generation], temperature: float = 1.0) -> float:
    """Mean |log-prob of the engine - log-prob of the trainer's model in fp32| a token."""
    model = versions.model(int(version.partition("@v")[2]))
    with torch.no_grad():
        found = token_logprobs(
            model, [one.prompt_token_ids for one in samples], [one.token_ids for one in samples], temperature
        )
    gaps = [
        abs(ours - theirs)
        for row, one in zip(found.tolist(), samples, strict=True)
        for ours, theirs in zip(one.logprobs, row, strict=False)
    ]
    return sum(gaps) / len(gaps)


def processes_of(engine: VllmEngine) -> list[psutil.Process]:
    process = engine.server.life.process
    assert process is not None
    return psutil.Process(process.pid).children(recursive=True)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + RETURN_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {RETURN_S:.0f} s"
        time.sleep(0.1)


def kill_core(engine: VllmEngine) -> None:
    """SIGKILL to the process that holds the model."""
    for process in processes_of(engine):
        if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)


def kill_while_asked(engine: VllmEngine) -> None:
    """The request that runs is lost, and the server comes back without its versions: nothing is asked of it before."""
    long = Sampling(temperature=1.0, top_p=1.0, max_tokens=800)
    lost: list[BaseException] = []

    def ask() -> None:
        try:
            engine.generate([request("Tell a story.", 1, sampling=long)])
        except EngineAwayError as error:
            lost.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    kill_core(engine)
    asking.join(WAIT_S)
    assert len(lost) == 1
    until(lambda: engine.health().state is EngineState.EMPTY, "an empty server")
    assert engine.versions() == {}
    with pytest.raises(EngineAwayError, match="with it a@v1"):
        engine.generate([request("?", version="a@v1")])
