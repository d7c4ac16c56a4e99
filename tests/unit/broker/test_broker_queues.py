"""What the broker shows of the queues and of the run's status."""

from pathlib import Path

from prometheus_client import REGISTRY

from services.broker import metrics
from services.broker.upkeep import show_queues
from shared.bus.keys import RESULTS
from shared.contracts.acting import Control
from shared.contracts.run import Status
from tests.fakes.broker import BrokerBench


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_what_waits_and_what_was_given_up_is_shown(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path)
    show_queues(bench.workers, ("a", "b"))
    before = value("opcod_broker_queued", queue=RESULTS, place="waiting")
    bench.workers.publish(RESULTS, Control(id="1", action="pause", reason="a test"))
    show_queues(bench.workers, ("a", "b"))
    assert before is not None
    assert value("opcod_broker_queued", queue=RESULTS, place="waiting") == before + 1
    assert value("opcod_broker_queued", queue="jobs:b:revise", place="in_hand") == 0
    assert value("opcod_broker_dead_letters") == 0


def test_status_and_pause_are_shown(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path)
    state = bench.state.model_copy(update={"status": Status.TRAINING, "paused": "asked", "steps": {"a": 3, "b": 2}})
    metrics.show(state, bench.runner._plan)
    assert value("opcod_broker_run_status", status="TRAINING") == 1
    assert value("opcod_broker_run_status", status="DONE") == 0
    assert value("opcod_broker_run_paused") == 1
    assert value("opcod_broker_steps", student="a") == 3
