"""What people cost a run: python benchmarks/beside.py

Seconds of a step of scripted students and trainers of a tiny model, as `opcod run` starts them, in turns with nobody
there, with two viewers of the inspector's live stream, and with 200 idle and 50 slow connections to broker, inspector
and students. Steps are so short (no model draws) that anything beside them shows more than it would in a real run.
"""

import argparse
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx2

from opcod.local.deployment import Deployment
from tests.fakes.deployment import CONTEXT, ScriptedDeployment
from tests.fakes.fork_server import fork_server
from tests.unit.modeling.tiny_model import write_tiny_model

STEPS = 100_000
IDLE, SLOW = 200, 50
SIDES = ("nobody", "two viewers", "250 connections")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="of each side")
    parser.add_argument("--seconds", type=float, default=15, help="of one turn")
    arguments = parser.parse_args()
    with fork_server(), tempfile.TemporaryDirectory() as directory:
        model = write_tiny_model(Path(directory) / "model", context=CONTEXT)
        running = ScriptedDeployment(Path(directory), "beside", model, f"run.steps_per_round={STEPS}")
        try:
            running.until_training()
            measure(running, arguments.turns, arguments.seconds)
        finally:
            running.close()


def measure(running: ScriptedDeployment, turns: int, seconds: float) -> None:
    deployment = running.launcher.deployment
    assert deployment is not None
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(turns):
        for side in SIDES:
            with present(side, deployment):
                before, started = steps(running), time.monotonic()
                while time.monotonic() - started < seconds:
                    running.launcher.watch()
                    time.sleep(0.2)
                found[side].append((time.monotonic() - started) / max(steps(running) - before, 1))
    for side in SIDES:
        # Against the turn of nobody that lies nearest in time.
        ratios = [here / alone for here, alone in zip(found[side], found["nobody"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{side}: {median(found[side]):.3f} s a step; {median(ratios):.2f} of that alone ({spread}; {turns} turns)"
        )


def steps(running: ScriptedDeployment) -> int:
    """Of both students, by the versions on disk."""
    return sum(1 for _ in (running.paths.run_dir / "weights").glob("*/v*"))


@contextmanager
def present(side: str, deployment: Deployment) -> Iterator[None]:
    assert deployment.broker is not None and deployment.inspector is not None
    with ExitStack() as open_:
        if side == "two viewers":
            for _ in range(2):
                open_.enter_context(viewer(deployment.inspector.url, deployment.key()))
        elif side == "250 connections":
            urls = [deployment.broker.url, deployment.inspector.url, *(student.url for student in deployment.students)]
            for number in range(IDLE + SLOW):
                # Dealt out over all services in turn.
                host, port = urls[number % len(urls)].removeprefix("http://").split(":")
                connection = open_.enter_context(socket.create_connection((host, int(port)), timeout=10))
                if number >= IDLE:
                    # A request that never ends: its head stops in the middle of a line.
                    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-Sl")
        yield


@contextmanager
def viewer(url: str, key: str) -> Iterator[None]:
    """Reads the stream from its beginning, in a thread."""
    client = httpx2.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False)
    with client, client.stream("GET", f"{url}/v1/stream") as answer:
        assert answer.status_code == 200, answer.status_code
        done = threading.Event()
        reader = threading.Thread(target=read, args=(answer, done), daemon=True)
        reader.start()
        yield
        done.set()
    reader.join(5)


def read(answer: httpx2.Response, done: threading.Event) -> None:
    try:
        for _ in answer.iter_lines():
            if done.is_set():
                return
    except (httpx2.HTTPError, httpx2.StreamError):
        return


if __name__ == "__main__":
    main()
