"""Seconds from a SIGKILL until work goes on: python benchmarks/recovery.py (a trainer's rank: benchmarks/ranks.py)

A run of scripted students and trainers of a tiny model, as `opcod run` starts it. A killed process counts as recovered
when the next step of the run is applied that was not before; beside it stands how long a step takes when nothing
happens, since the two cannot be told apart from outside. `ready` is until /readyz of every service answers 200 again;
for Redis, started again on its append-only file, services need not have noticed, so only the step counts.
"""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx2
import psutil

from tests.fakes.deployment import CONTEXT, ScriptedDeployment
from tests.fakes.fork_server import fork_server
from tests.unit.modeling.tiny_model import write_tiny_model

VICTIMS = ("student-a", "redis")
STEPS = 10_000
RANK = ", rank "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="kills of each victim, in turns")
    arguments = parser.parse_args()
    with deployment() as running:
        measure(running, arguments.repeats, VICTIMS)


@contextmanager
def deployment(*settings: str) -> Iterator[ScriptedDeployment]:
    """A run that does not end by itself."""
    with fork_server(), tempfile.TemporaryDirectory() as directory:
        model = write_tiny_model(Path(directory) / "model", context=CONTEXT)
        running = ScriptedDeployment(Path(directory), "recovery", model, f"run.steps_per_round={STEPS}", *settings)
        try:
            yield running
        finally:
            running.close()


def measure(running: ScriptedDeployment, repeats: int, victims: Sequence[str]) -> None:
    running.until_training()
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        seconds.setdefault("a step, undisturbed", []).append(_until(running, _next_step(running)))
        for victim in victims:
            # Noted before the kill: a step that was nearly done then counts as well.
            further = _next_step(running)
            os.kill(_pid(running, victim), signal.SIGKILL)
            ready = _until(running, lambda: all(map(_is_ready, _url_files(running))))
            if victim != "redis":
                seconds.setdefault(f"{victim} killed, until ready", []).append(ready)
            seconds.setdefault(f"{victim} killed, until the next step", []).append(ready + _until(running, further))
    for name, found in seconds.items():
        print(f"{name}: {median(found):.1f} s (median of {repeats}; {min(found):.1f} to {max(found):.1f})")


def _next_step(running: ScriptedDeployment) -> Callable[[], bool]:
    """Whether both students have a further version than now; looked up on disk, as Redis may be away."""
    before = _versions(running)
    return lambda: all(now > then for now, then in zip(_versions(running), before, strict=True))


def _versions(running: ScriptedDeployment) -> tuple[int, ...]:
    weights = running.paths.run_dir / "weights"
    return tuple(len(list((weights / student).glob("v*"))) for student in ("a", "b"))


def _until(running: ScriptedDeployment, reached: Callable[[], bool]) -> float:
    started = time.monotonic()
    running.until(reached)
    return time.monotonic() - started


def _pid(running: ScriptedDeployment, victim: str) -> int:
    """Of the process itself; Redis is a child of its own supervisor, and a rank one of its trainer's."""
    service, _, rank = victim.partition(RANK)
    if rank:
        ranks = psutil.Process(running.launcher.pids()[service]).children()
        return next(each.pid for each in ranks if each.environ().get("RANK") == rank)
    if victim != "redis":
        return running.launcher.pids()[victim]
    # The server says its own process id; `running.launcher` knows its supervisor's.
    info = running.bus.link.client.info("server")
    return int(info["process_id"])


def _url_files(running: ScriptedDeployment) -> list[Path]:
    logs = running.paths.run_dir / "logs"
    return [logs / f"{name}.url" for name in ("student-a", "student-b", "trainer-a", "trainer-b", "broker")]


def _is_ready(url_file: Path) -> bool:
    """A service that is being started again has no file, or one that says where it was."""
    try:
        return httpx2.get(f"{url_file.read_text()}/readyz", timeout=2, trust_env=False).status_code == 200
    except (OSError, httpx2.HTTPError):
        return False


if __name__ == "__main__":
    main()
