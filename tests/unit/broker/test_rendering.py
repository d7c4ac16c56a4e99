"""Student and trainer must make the same token ids of messages, or the run pauses and says so."""

from pathlib import Path

import pytest

from services.broker.upkeep import disagreement
from shared.contracts.heartbeats import Heartbeat
from tests.fakes.broker import BrokerBench


def beat(service: str, rendering: str | None, replica: str = "0") -> Heartbeat:
    return Heartbeat(service=service, replica=replica, state="ready", rendering=rendering, at=0.0)


@pytest.mark.parametrize(
    ("beats", "agree"),
    [
        ([beat("student-a", "x"), beat("trainer-a", "x"), beat("student-b", "y"), beat("trainer-b", "y")], True),
        ([beat("student-a", None), beat("trainer-a", "x")], True),
        ([beat("student-a", "x"), beat("trainer-a", "y")], False),
        ([beat("student-b", "x"), beat("student-b", "y", "1")], False),
    ],
    ids=["families differ", "not known yet", "engine and trainer", "two replicas"],
)
def test_all_who_render_for_one_student_must_agree(beats: list[Heartbeat], agree: bool) -> None:
    reason = disagreement(("a", "b"), beats)
    assert (reason is None) is agree
    assert agree or ("expected the same chat template" in str(reason) and "x" in str(reason))


def test_a_run_pauses_before_anything_is_trained_and_again_until_it_is_mended(tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path)
    bench.workers.beat(beat("student-a", "x"), ttl_s=60)
    bench.workers.beat(beat("trainer-a", "y"), ttl_s=60)
    bench.run(lambda state: state.paused is not None)
    assert "student a everywhere" in str(bench.state.paused)
    assert bench.state.steps == {"a": 0, "b": 0}
