"""What `paper_size.py` measures: samples of the processor's time, the broker's event loop, and what the clocks say."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil
import redis

from shared.bus.redis import RedisBus

PROBE_S = 0.25
"""Four a second cost the broker little beside what it does, and are some hundreds in a step."""

SAMPLE_S = 0.5
REDIS_CPU = ("used_cpu_sys", "used_cpu_user", "used_cpu_sys_children", "used_cpu_user_children")
FROM_OUTSIDE = ("evalsha", "xread", "get", "set", "mget", "scan", "hget", "xadd", "xlen")
"""Commands that services send; what a script calls is counted under other names, but for a few."""


class LoopProbe:
    """Asks the broker's /livez now and then, as a cluster does: when, and seconds until its event loop answered."""

    def __init__(self, url: str) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._url = f"{url}/livez"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "LoopProbe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx2.Client(timeout=60, trust_env=False) as client:
            while not self._stopping.wait(PROBE_S):
                began = time.perf_counter()
                try:
                    client.get(self._url)
                except httpx2.HTTPError:
                    continue  # a connection that stood idle for long is closed under the next request
                self.seconds.append((time.time(), time.perf_counter() - began))


@dataclass(frozen=True)
class CpuSample:
    """Seconds of the processor that broker and Redis have had at a time, and what Redis counts."""

    at: float
    broker: float
    redis: float
    commands: dict[str, tuple[int, float]]


class Sampler(threading.Thread):
    """Takes a sample every SAMPLE_S, from the start: what a stretch cost is known once it is known when it was."""

    def __init__(self, bus: RedisBus, broker: int) -> None:
        super().__init__(daemon=True)
        self.samples: list[CpuSample] = []
        self._client = bus.link.client
        self._broker = psutil.Process(broker)

    def run(self) -> None:
        while True:
            try:
                self.samples.append(self.now())
            except (redis.RedisError, psutil.Error):
                return
            time.sleep(SAMPLE_S)

    def now(self) -> CpuSample:
        info: Any = self._client.info("cpu", "commandstats")
        times = self._broker.cpu_times()
        commands = {
            name.removeprefix("cmdstat_"): (each["calls"], each["usec"] / 1e6)
            for name, each in info.items()
            if name.startswith("cmdstat_")
        }
        return CpuSample(time.time(), times.user + times.system, sum(info[name] for name in REDIS_CPU), commands)

    def between(self, began: float, ended: float) -> tuple[CpuSample, CpuSample]:
        """The last sample before `began`, and the first one after `ended`."""
        before = [sample for sample in self.samples if sample.at <= began]
        after = [sample for sample in self.samples if sample.at >= ended]
        return before[-1], (after or self.samples[-1:])[0]


def idle_figures(sampler: Sampler, seconds: float) -> dict[str, float]:
    """What polling costs where there is no work: cores, and calls a second."""
    before = sampler.now()
    time.sleep(seconds)
    after = sampler.now()
    spent = after.at - before.at
    calls = sum(count for name, (count, _) in after.commands.items() if name in FROM_OUTSIDE)
    calls -= sum(count for name, (count, _) in before.commands.items() if name in FROM_OUTSIDE)
    return {
        "redis_cores": (after.redis - before.redis) / spent,
        "broker_cores": (after.broker - before.broker) / spent,
        "calls_per_s": calls / spent,
    }


def commands_between(first: CpuSample, last: CpuSample) -> dict[str, dict[str, float]]:
    """The commands that took Redis longest: calls a second, and the share of its thread. Scripts count as a whole, and
    what they call once more by itself."""
    seconds = last.at - first.at
    spent = {
        name: (count - first.commands.get(name, (0, 0.0))[0], used - first.commands.get(name, (0, 0.0))[1])
        for name, (count, used) in last.commands.items()
    }
    longest = sorted(spent.items(), key=lambda item: -item[1][1])[:6]
    return {name: {"per_s": count / seconds, "share": used / seconds} for name, (count, used) in longest}


def clocked(told: Any, read: Any, began: float, ended: float, steps: int) -> dict[str, Any]:
    """What the clocks in broker and trainers say of this stretch, a step."""
    spans = [(name, seconds) for at, name, seconds in told["spans"] if began <= at <= ended]
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name, seconds in spans:
        sums[name] += seconds
        counts[name] += 1
    reports = [seconds for name, seconds in spans if name.startswith("report: ")]
    shown = sorted(name for name in sums if name.startswith(("report: ", "file: ", "redis: ")))
    return {
        "reports": len(reports) / steps,
        "report_s": spread(reports),
        "report_cpu_s": spread([seconds for name, seconds in spans if name == "worked"]),
        "wait_s": spread([seconds for name, seconds in spans if name == "wait"]),
        "spans": {name: {"s": sums[name] / steps, "times": counts[name] / steps} for name in shown},
        "files_s": sum(seconds for name, seconds in sums.items() if name.startswith("file: ")) / steps,
        "trainers_s": sum(seconds for _, _, seconds in read["spans"]) / steps,
        "counts": told["counts"] | read["counts"],
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }
