"""`python -m services.student` on a real server: the process, the broker's side of its queues, its HTTP."""

import signal
from pathlib import Path

import httpx2

from shared.bus.keys import STUDENTS, jobs
from shared.bus.redis import RedisBus
from shared.contracts.envelope import Message
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobDone, JobKind
from shared.problems.loading import load_problem_set
from tests.fakes.forked import Forked
from tests.fakes.service_process import start_service
from tests.fakes.student import RUN, Broker, config_in
from tests.fakes.waiting import WAIT_S, wait_until

LEASE_S = 3.0


class Student:
    """`python -m services.student` for student a with the scripted engine, and the broker's side of its queues."""

    def __init__(self, run_dir: Path, redis_url: str, replica: str = "0", lease_s: float = LEASE_S) -> None:
        self.run_dir = run_dir
        self.replica = replica
        self.redis_url = redis_url
        self.bus = RedisBus(redis_url, RUN, lease_s=lease_s)
        self.config = config_in(run_dir, f"bus.lease_s={lease_s}", "bus.heartbeat_s=0.1", "bus.deadline_s=1.0")
        self.broker = Broker(self.bus)
        self.process: Forked | None = None
        self.url = ""
        self.seen: list[Message] = []

    def start(self, latency_s: float = 0.0) -> None:
        """Returns when it is ready."""
        self.process, self.url = start_service(
            "student",
            run=RUN,
            run_dir=self.run_dir,
            redis_url=self.redis_url,
            replica=self.replica,
            OPCOD_STUDENT="a",
            OPCOD_SCRIPT_LATENCY_S=str(latency_s),
        )
        wait_until(lambda: self.get("/readyz").status_code == 200, "readiness")

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_S)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=10, trust_env=False)

    def post(self, path: str, body: dict[str, object]) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=10, trust_env=False)

    def results(self) -> list[Message]:
        """All that came so far."""
        self.seen += self.broker.results(block_s=0.05)
        return self.seen

    def done(self, count: int) -> list[JobDone]:
        wait_until(lambda: len(self._done()) >= count, f"{count} results")
        return self._done()

    def _done(self) -> list[JobDone]:
        return [message for message in self.results() if isinstance(message, JobDone)]

    def of_type(self, kind: type[Message], what: str) -> list[Message]:
        wait_until(lambda: any(isinstance(message, kind) for message in self.results()), what)
        return [message for message in self.results() if isinstance(message, kind)]

    def heartbeat(self) -> Heartbeat | None:
        beats = self.bus.heartbeats()
        return beats[0] if beats else None

    def pending(self, kind: JobKind) -> int:
        return self.bus.queue_depth(jobs("a", kind), STUDENTS)[1]


def question(student: Student) -> str:
    """One that the scripted engine knows."""
    settings = student.config.settings
    domains = (settings.students["a"].domain, settings.students["b"].domain)
    return load_problem_set("generated", "integer", settings.run.seed, domains=domains).train[0].question
