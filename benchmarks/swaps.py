"""New versions on a vLLM server: python benchmarks/swaps.py [--swaps 40] [--python .venv-vllm/bin/python]

First, idle: the time until the student's loader has a version ready (manifest, sha256, finite, load) against vLLM's
own time to load the same adapter under another name, in turns. Then under load: threads keep asking one version while
others come, answer and go; every answer must come, and its log-probs must be nearer to those of its own version than
to those of another one.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import torch

from services.student.app import build_engine, build_loader
from services.student.engines.port import Generation, GenerationRequest
from services.student.engines.vllm.engine import VllmEngine
from services.student.weights.loader import WeightLoader
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import OpcodError
from shared.modeling.logprobs import token_logprobs
from tests.vllm.bench import Adapters, vllm_config

SHORT = Sampling(temperature=1.0, top_p=1.0, max_tokens=4)
STRENGTH = 0.3
"""Of the adapters: so strong that two of them give clearly different log-probs."""

TURNS = 7
READERS = 2
STEADY = "a@v1"


def request(text: str, seed: int, version: str) -> GenerationRequest:
    return GenerationRequest(version, (ChatMessage(role="user", content=text),), SHORT, seed)


def load_times(engine: VllmEngine, loader: WeightLoader, directory: Path) -> None:
    """Seconds of ours and of vLLM's alone, of versions 2 to TURNS + 1; in turns, one first and then the other: what
    reads a version's files second finds them warm."""
    ours, own = [], []
    client = engine.server.life.client

    def ready(turn: int) -> None:
        started = time.monotonic()
        loader.load(f"a@v{turn + 2}")
        ours.append(time.monotonic() - started)

    def alone(turn: int) -> None:
        started = time.monotonic()
        client.load(f"bare-{turn}", directory / f"v{turn + 2:06d}")
        own.append(time.monotonic() - started)

    for turn in range(TURNS):
        for load in (ready, alone) if turn % 2 else (alone, ready):
            load(turn)
        client.unload(f"bare-{turn}")
        engine.unload(f"a@v{turn + 2}")
    mine, its = 1000 * statistics.median(ours), 1000 * statistics.median(own)
    print(f"ready: {mine:.0f} ms, vLLM alone {its:.0f} ms, {mine / its:.2f}×")


def swap(engine: VllmEngine, loader: WeightLoader, adapters: Adapters, swaps: int, versions: int) -> None:
    """`swaps` loads and unloads of the versions from 2 on, in turn, while READERS threads ask the steady one."""
    done = threading.Event()
    lost: list[Exception] = []
    steady = [0] * READERS

    def keep_asking(reader: int) -> None:
        while not done.is_set():
            try:
                (sample,) = engine.generate([request("What is steady?", reader, STEADY)])
                assert sample.token_ids
                steady[reader] += 1
            except (OpcodError, AssertionError) as error:
                lost.append(error)

    readers = [threading.Thread(target=keep_asking, args=(reader,)) for reader in range(READERS)]
    for reader in readers:
        reader.start()
    answers: list[tuple[int, Generation]] = []
    seconds = []
    for number in range(swaps):
        steps = 2 + number % (versions - 1)
        started = time.monotonic()
        loader.load(f"a@v{steps}")
        seconds.append(time.monotonic() - started)
        (sample,) = engine.generate([request("What is new?", number, f"a@v{steps}")])
        answers.append((steps, sample))
        engine.unload(f"a@v{steps}")
    done.set()
    for reader in readers:
        reader.join()
    wrong = mislabelled(adapters, answers, versions)
    print(
        f"{swaps} swaps under load: {len(answers)} answers of new versions, {sum(steady)} of the steady one, "
        f"{len(lost)} lost, {wrong} mislabelled; ready in {statistics.median(seconds):.2f} s (median), "
        f"{max(seconds):.2f} s at most; load {os.getloadavg()[0]:.1f}"
    )


def mislabelled(adapters: Adapters, answers: list[tuple[int, Generation]], versions: int) -> int:
    """Answers that another version explains better than their own."""
    wrong = 0
    for steps in range(2, versions + 1):
        own = [sample for number, sample in answers if number == steps]
        if not own:
            continue
        other = steps + 1 if steps < versions else 1
        near, far = (gaps(adapters, version, own) for version in (steps, other))
        wrong += sum(gap > distance for gap, distance in zip(near, far, strict=True))
    return wrong


def gaps(adapters: Adapters, steps: int, samples: list[Generation]) -> list[float]:
    """By sample, the mean |difference| of its log-probs from those of a version in fp32."""
    model = adapters.model(steps)
    with torch.no_grad():
        found = token_logprobs(model, [s.prompt_token_ids for s in samples], [s.token_ids for s in samples]).tolist()
    pairs = zip(found, samples, strict=True)
    return [sum(abs(a - b) for a, b in zip(row, s.logprobs, strict=False)) / len(s.logprobs) for row, s in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=".venv-vllm/bin/python", help="Interpreter of vLLM's environment.")
    parser.add_argument("--swaps", type=int, default=40)
    parser.add_argument("--versions", type=int, default=TURNS + 1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        config = vllm_config(Path(directory) / "test", f"students.a.vllm.python={given.python}")
        adapters = Adapters(config, STRENGTH)
        for steps in range(1, given.versions + 1):
            adapters.publish(steps)
        engine = build_engine(config)
        assert isinstance(engine, VllmEngine)
        try:
            loader = build_loader(config, engine)
            loader.load(STEADY)
            load_times(engine, loader, config.weights)
            swap(engine, loader, adapters, given.swaps, given.versions)
        finally:
            engine.close()


if __name__ == "__main__":
    main()
