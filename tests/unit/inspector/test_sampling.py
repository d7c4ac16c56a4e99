"""What services say that they use, kept once for each heartbeat, whatever is away meanwhile."""

import pytest

from services.inspector.sampling import UsageSampler
from services.inspector.store.store import Store
from shared.errors import UnavailableError
from tests.fakes.threads import in_thread
from tests.fakes.waiting import wait_until
from tests.unit.inspector.store.test_usage import beat
from tests.unit.inspector.told import EventLog


def kept(store: Store) -> list[float]:
    return [point.begin for point in store.usage.between(0, 10, period_s=0.5)]


def test_each_heartbeat_is_kept_once(store: Store, log: EventLog) -> None:
    sampler = UsageSampler(log.heartbeats, store.usage, period_s=1.0)
    log.up = [beat(1.0), beat(1.0, "trainer-a")]
    sampler.look()
    sampler.look()
    log.up = [beat(3.0), beat(1.0, "trainer-a")]
    sampler.look()
    assert kept(store) == [1, 3, 1]


def test_what_only_serves_a_run_that_is_over_is_not_kept(store: Store, log: EventLog) -> None:
    sampler = UsageSampler(log.heartbeats, store.usage, period_s=1.0)
    log.up = [beat(1.0), beat(1.0, "trainer-b")]
    sampler.look()
    log.up = [beat(3.0), beat(3.0, "broker")]
    sampler.look()
    assert kept(store) == [1, 1]


def test_a_server_that_is_away_is_asked_again(store: Store, log: EventLog) -> None:
    sampler = UsageSampler(log.heartbeats, store.usage, period_s=0.01)
    log.away = True
    with pytest.raises(UnavailableError):
        sampler.look()
    with in_thread(sampler.run):
        log.up, log.away = [beat(1.0, "trainer-a")], False
        wait_until(lambda: kept(store) == [1], "its first heartbeat")
