"""Swapping: the serve set is followed, nothing in use is unloaded, and a bad version leaves the old one serving."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.board import Board, student_heartbeat
from services.student.weights.loader import VersionRefusedError, WeightLoader
from services.student.weights.versions import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, VersionKeeper
from services.student.work.jobs import LOAD_TRIES, Outbox
from shared.contracts.events import VersionServing
from shared.contracts.jobs import JobDone, JobKind
from shared.contracts.weights import VersionLoaded, VersionRefused
from shared.errors import MalformedMessageError
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.engine import BASE_CHECKSUM, FakeEngine
from tests.fakes.student import RUN, Broker, HandClock, StudentBench, config_in, publish_version


class Keeping:
    """A keeper with all that is around it, without the loop."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.clock = HandClock()
        self.bus = MemoryBus()
        self.broker = Broker(self.bus)
        self.engine = FakeEngine()
        self.board = Board(self.clock)
        self.outbox = Outbox()
        loader = WeightLoader(run_dir / "weights" / "a", run=RUN, student="a", engine=self.engine, base_model=None)
        self.keeper = VersionKeeper(
            student="a",
            replica="0",
            engine=self.engine,
            loader=loader,
            bus=self.bus,
            outbox=self.outbox,
            board=self.board,
            clock=self.clock,
        )

    def sync(self, *in_use: str) -> list[str]:
        """Sync, flush, and the keys of what the broker was told."""
        self.keeper.sync(in_use)
        self.outbox.flush()
        return [message.key for message in self.broker.results()]


class Timed(StudentBench):
    """A whole student whose clock is moved by hand."""

    def __init__(self, run_dir: Path, *, continuous: bool) -> None:
        self.hand = HandClock()
        super().__init__(run_dir, continuous=continuous, clock=self.hand)


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path)


def test_without_a_serve_set_the_base_model_serves(keeping: Keeping) -> None:
    assert keeping.board.not_ready() == "the engine is starting"
    assert keeping.sync() == ["a@v0.0.loaded"]
    assert (keeping.board.serving.live, keeping.board.serving.versions) == ("a@v0", {"a@v0": BASE_CHECKSUM})
    assert keeping.board.not_ready() is None


def test_a_swap_loads_the_new_reports_its_checksum_and_unloads_the_old(keeping: Keeping) -> None:
    keeping.sync()
    manifest = publish_version(keeping.run_dir, 1)
    keeping.broker.serve("a@v1")
    keeping.keeper.sync([])
    keeping.outbox.flush()
    (loaded,) = keeping.broker.results()
    assert isinstance(loaded, VersionLoaded) and loaded.checksum == manifest.checksum
    assert keeping.board.serving.live == "a@v1"
    assert keeping.engine.versions() == {"a@v1": manifest.checksum}
    events = [event for _, event in keeping.bus.read_events("0", count=9, block_s=0)]
    assert [event.version for event in events if isinstance(event, VersionServing)] == ["a@v0", "a@v1"]


def test_each_version_is_as_old_as_it_is_in_this_process(keeping: Keeping, tmp_path: Path) -> None:
    loaded = keeping.clock.wall_s()
    keeping.sync()
    publish_version(keeping.run_dir, 1)
    keeping.broker.serve("a@v1", "a@v0")
    keeping.clock.now_s += 50
    keeping.sync()
    keeping.clock.now_s += 50
    keeping.sync()
    assert keeping.board.serving.since == {"a@v0": loaded, "a@v1": loaded + 50}
    said = student_heartbeat(config_in(tmp_path / "c"), keeping.board, keeping.clock, threading.Event())
    assert said.served_since == keeping.board.serving.since
    # What was unloaded meanwhile begins anew.
    keeping.broker.serve("a@v1")
    keeping.sync()
    keeping.broker.serve("a@v1", "a@v0")
    keeping.sync()
    assert keeping.board.serving.since == {"a@v0": loaded + 100, "a@v1": loaded + 50}


def test_the_frozen_tutor_and_what_is_in_use_stay_loaded(keeping: Keeping) -> None:
    for steps in (1, 2, 3):
        publish_version(keeping.run_dir, steps)
    keeping.broker.serve("a@v2", "a@v0", "a@v1")
    keeping.sync()
    keeping.broker.serve("a@v3", "a@v0")
    keeping.sync("a@v1")
    assert sorted(keeping.engine.versions()) == ["a@v0", "a@v1", "a@v3"]
    keeping.sync()
    assert sorted(keeping.engine.versions()) == ["a@v0", "a@v3"]


def test_nothing_is_loaded_or_told_twice(keeping: Keeping) -> None:
    publish_version(keeping.run_dir, 1)
    keeping.broker.serve("a@v1", "a@v0")
    assert keeping.sync() == ["a@v1.0.loaded", "a@v0.0.loaded"]
    assert keeping.sync() == []
    assert keeping.engine.loads == ["a@v1", "a@v0"]


def test_a_refused_version_leaves_the_previous_one_serving_and_backs_off(keeping: Keeping) -> None:
    keeping.sync()
    keeping.broker.serve("a@v1")
    assert keeping.sync() == ["a@v1.0.refused"]
    assert keeping.sync() == []
    assert (keeping.board.serving.live, keeping.board.not_ready()) == ("a@v0", None)
    assert keeping.board.serving.problem is not None
    assert keeping.engine.versions() == {"a@v0": BASE_CHECKSUM}
    keeping.clock.now_s += FIRST_BACKOFF_S
    assert keeping.sync() == ["a@v1.0.refused"]
    keeping.clock.now_s += FIRST_BACKOFF_S
    assert keeping.sync() == []
    publish_version(keeping.run_dir, 1)
    keeping.clock.now_s += LONGEST_BACKOFF_S
    assert keeping.sync() == ["a@v1.0.loaded"]
    assert keeping.board.serving.live == "a@v1" and keeping.board.serving.problem is None


def test_what_the_broker_says_anew_is_tried_at_once(keeping: Keeping) -> None:
    keeping.broker.serve("a@v2", "a@v1")
    keeping.sync()
    for steps in (1, 2):
        publish_version(keeping.run_dir, steps)
    keeping.broker.serve("a@v2", "a@v1", "a@v0")
    assert keeping.sync() == ["a@v0.0.loaded"], "other versions say nothing about those before"
    keeping.broker.serve("a@v2", "a@v1", "a@v0")
    assert keeping.keeper.behind()
    assert keeping.sync() == ["a@v2.0.loaded", "a@v1.0.loaded"]


def test_a_student_whose_live_version_is_refused_from_the_start_is_not_ready(keeping: Keeping) -> None:
    keeping.broker.serve("a@v4", "a@v0")
    keeping.sync()
    assert "v000004" in str(keeping.board.not_ready())
    assert keeping.board.state == "starting"


def test_a_serve_set_that_vanished_changes_nothing(keeping: Keeping) -> None:
    publish_version(keeping.run_dir, 1)
    keeping.broker.serve("a@v1")
    keeping.sync()
    keeping.bus.server.flush()
    Broker(keeping.bus)
    assert keeping.sync() == []
    assert keeping.board.serving.live == "a@v1"


def test_a_serve_set_that_is_none_is_an_error(keeping: Keeping) -> None:
    keeping.bus.server.serve["a"] = "{}"
    with pytest.raises(MalformedMessageError, match="serve set of a"):
        keeping.keeper.sync([])


def test_within_its_back_off_a_refused_version_fails_without_another_look(keeping: Keeping) -> None:
    for _ in range(3):
        with pytest.raises(VersionRefusedError, match="v000007"):
            keeping.keeper.ensure("a@v7")
    keeping.outbox.flush()
    assert [type(message) for message in keeping.broker.results()] == [VersionRefused]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StudentBench]:
    bench = StudentBench(tmp_path)
    bench.turn()
    yield bench
    bench.close()


def test_a_job_loads_the_version_it_names(bench: StudentBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.broker.issue(JobKind.FEEDBACK, 1, version="a@v1")
    results = bench.turn()
    assert [message.outcome for message in results if isinstance(message, JobDone)] == ["ok"]
    assert bench.engine.calls[0][0].version == "a@v1"


@pytest.fixture(params=[False, True], ids=["groups", "continuous"])
def timed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timed]:
    bench = Timed(tmp_path, continuous=request.param)
    bench.turn()
    yield bench
    bench.close()


def test_jobs_of_a_version_that_is_refused_wait_for_it_and_others_go_on(timed: Timed, tmp_path: Path) -> None:
    for number in (1, 2):
        timed.broker.issue(JobKind.FEEDBACK, number, version="a@v1")
    timed.broker.issue(JobKind.FEEDBACK, 3)
    assert [(done.job_id, done.outcome) for done in timed.done(9)] == [("r1.a.s3.p.feedback", "ok")]
    timed.broker.issue(JobKind.FEEDBACK, 4, version="a@v1")
    assert timed.turn(3) == []
    publish_version(tmp_path, 1)
    timed.hand.now_s += FIRST_BACKOFF_S
    done = timed.done(9)
    assert {(job.job_id, job.outcome) for job in done} == {(f"r1.a.s{at}.p.feedback", "ok") for at in (1, 2, 4)}


def test_jobs_of_a_version_that_is_refused_too_often_fail_and_say_why(timed: Timed) -> None:
    timed.broker.issue(JobKind.ROLLOUT, 1, version="a@v5")
    for _ in range(LOAD_TRIES - 1):
        assert [type(message) for message in timed.turn(3)] == [VersionRefused]
        timed.hand.now_s += LONGEST_BACKOFF_S
    (done,) = timed.done(3)
    assert done.outcome == "failed" and str(done.error).startswith("VersionRefusedError: a@v5")
    timed.broker.issue(JobKind.ROLLOUT, 2, version="a@v5")
    assert [job.outcome for job in timed.done(3)] == ["failed"], "nobody has mended it"


def test_jobs_of_a_resumed_run_do_not_fail_for_what_was_mended(timed: Timed, tmp_path: Path) -> None:
    timed.broker.serve("a@v1", "a@v0")
    for _ in range(LOAD_TRIES + 1):
        timed.hand.now_s += LONGEST_BACKOFF_S
        assert [type(message) for message in timed.turn()] == [VersionRefused]
    publish_version(tmp_path, 1)
    # Taken in a turn that has asked before what is to be served.
    timed.broker.issue(JobKind.FEEDBACK, 1, version="a@v1")
    assert timed.done() == []
    timed.broker.serve("a@v1", "a@v0")
    assert [job.outcome for job in timed.done(9)] == ["ok"]


def test_after_a_restart_the_served_version_is_loaded_before_anything_else(bench: StudentBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.broker.serve("a@v1", "a@v0")
    bench.turn()
    bench.restart()
    assert bench.board.not_ready() == "the engine is starting"
    bench.turn()
    assert bench.engine.loads == ["a@v1", "a@v0"]
    assert bench.board.serving.live == "a@v1" and bench.board.not_ready() is None
