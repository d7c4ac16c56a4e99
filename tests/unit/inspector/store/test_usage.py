"""Samples of what services use: kept, summed over replicas, averaged over time, and capped."""

import sqlite3
from itertools import pairwise
from pathlib import Path

from services.inspector.store.database import Database
from services.inspector.store.schema import SCRIPT
from services.inspector.store.store import Store
from services.inspector.store.usage import POINTS, UsagePoint, UsageSamples
from shared.contracts.heartbeats import Heartbeat, MachineUsage
from tests.unit.inspector.told import RUN


def beat(at: float, service: str = "student-a", replica: str = "0", **used: float) -> Heartbeat:
    said = MachineUsage.model_validate({"cores": 1.0, "bytes": 100} | used)
    return Heartbeat(service=service, replica=replica, state="ready", usage=said, at=at)


def test_replicas_are_summed_and_times_between_two_heartbeats_averaged(store: Store) -> None:
    store.usage.put([beat(1, cores=0.5, bytes=10), beat(1, replica="1", cores=1.5, bytes=30)])
    store.usage.put([beat(3, cores=1.0, bytes=30), beat(3, replica="1", cores=1.5, bytes=30)])
    store.usage.put([beat(5, "trainer-a", gpus=0.25, gpu_bytes=7), Heartbeat(service="x", replica="0", state="", at=5)])
    nothing: dict[str, None] = {"gpus": None, "gpu_bytes": None}
    assert store.usage.between(0, 6, period_s=2) == [
        UsagePoint(service="student-a", begin=0, end=4, cores=2.25, bytes=50, **nothing),
        UsagePoint(service="trainer-a", begin=4, end=8, cores=1, bytes=100, gpus=0.25, gpu_bytes=7),
    ]
    assert store.usage.between(2.5, 4, period_s=0.1)[0].cores == 2.5
    assert store.usage.between(10, 20, period_s=1) == []


def test_cards_that_replicas_share_are_counted_once(store: Store) -> None:
    store.usage.put(
        [beat(1, gpus=0.5, gpu_bytes=70), beat(1, replica="1", gpus=0.75, gpu_bytes=60), beat(1, replica="2")]
    )
    [point] = store.usage.between(0, 2, period_s=1)
    assert (point.cores, point.gpus, point.gpu_bytes) == (3, 0.75, 70)


def test_a_long_stretch_has_no_more_points_than_can_be_drawn(store: Store) -> None:
    store.usage.put([beat(float(second)) for second in range(1000)])
    points = store.usage.between(0, 999, period_s=1)
    assert len(points) <= POINTS + 1
    assert {point.cores for point in points} == {1.0}
    assert all(point.end == later.begin for point, later in pairwise(points))


def test_the_oldest_samples_go(tmp_path: Path) -> None:
    database = Database(tmp_path / "log.sqlite3", SCRIPT, busy_s=1.0)
    samples = UsageSamples(database, limit=3)
    for second in range(6):
        samples.put([beat(float(second))])
    assert [point.begin for point in samples.between(0, 9, period_s=0.5)] == [3, 4, 5]
    database.close()


def test_a_store_that_kept_none_goes_on_with_them(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite3"
    Store(path, RUN).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE usage")
    connection.close()
    store = Store(path, RUN)
    store.usage.put([beat(1.0)])
    assert len(store.usage.between(0, 2, period_s=1)) == 1
    store.close()
