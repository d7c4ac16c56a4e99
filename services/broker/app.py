"""The broker put together: bus, leader's lease, runner thread, API.

Probes answer from the start; the run is taken up once the lease is held, so two brokers never both decide.
"""

import threading

import structlog

from services.broker.config import make_plan
from services.broker.http.peers import Peers
from services.broker.http.runs import acting_routes, add_routes
from services.broker.metrics import TRAINS
from services.broker.recovery import highest_fence
from services.broker.runner import Runner
from services.broker.upkeep import watch_queues
from shared.bus.keys import LEADER, queues_of
from shared.bus.leases import HeldLease
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.environment import ServiceEnvironment, service_environment
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat
from shared.errors import FencedError, UnavailableError
from shared.http.access import check_binding
from shared.http.app import create_app
from shared.http.remote import RemoteCalls
from shared.http.serving import Service
from shared.obs.logging import configure_logging
from shared.obs.presence import Presence, own_url
from shared.problems.coverage import uncovered_languages
from shared.problems.loading import load_problems
from shared.problems.pinned import problems_to_go_on_with

LEASE_POLL_S = 1.0

log = structlog.get_logger()


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    environment = service_environment()
    configure_logging(json=environment.log_json, service="broker", run=environment.run, replica=environment.replica)
    return Broker(environment, environment.settings()).serve()


class Broker:
    """One run's broker. `_runner` appears when the lease is held and the state is taken up."""

    def __init__(self, environment: ServiceEnvironment, settings: RunSettings) -> None:
        check_binding(environment.host, environment.keys())
        self._environment = environment
        self._settings = settings
        # Problems that are others now would be trained on and scored as those that the run began with; asked questions
        # are of neither.
        self._problems = (
            problems_to_go_on_with(environment.run_dir, settings) if environment.train else load_problems(settings)
        )
        uncovered = uncovered_languages(self._problems)
        if uncovered is not None:
            log.warning("languages not covered", reason=uncovered)
        self._plan = make_plan(environment.run, settings, self._problems)
        self._clock = SystemClock()
        self._service = Service("broker")
        self._bus = RedisBus(
            environment.bus_url(),
            environment.run,
            lease_s=settings.bus.lease_s,
            max_attempts=settings.bus.max_attempts,
            deadline_s=settings.bus.deadline_s,
        )
        self._presence = Presence(self._bus, self._heartbeat, period_s=settings.bus.heartbeat_s)
        self._lease = HeldLease(self._bus, LEADER, f"broker/{environment.replica}", ttl_s=settings.bus.leader_lease_s)
        self._ready = threading.Event()
        self._runner: Runner | None = None

    def serve(self) -> int:
        keys = self._environment.keys()
        key = keys.strongest if keys else None
        calls = RemoteCalls(self._settings.bus.deadline_s)
        peers = Peers(self._settings, self._bus, lambda: self._current().state, calls, key=key)
        app = create_app(
            "opcod broker",
            ready=self._problem,
            keys=keys,
            limits=self._settings.serving.limits,
        )
        add_routes(
            app,
            settings=self._settings,
            state=lambda: self._current().state,
            bus=self._bus,
            peers=peers,
            calls=calls,
            format_=self._problems.format,
            train=self._environment.train,
        )
        app.include_router(
            acting_routes(
                lambda: self._current().state,
                self._plan,
                self._bus,
                calls,
                self._environment.run_dir,
                train=self._environment.train,
            )
        )
        TRAINS.set(self._environment.train)
        self._service.spawn("runner", self._run)
        self._service.spawn("heartbeat", lambda: self._presence.run(self._service.stopping))
        self._service.spawn("queues", lambda: watch_queues(self._bus, self._plan.students, self._service.stopping))
        try:
            return self._service.serve(
                app,
                host=self._environment.host,
                port=self._environment.port,
                url_file=self._environment.url_file,
            )
        finally:
            self._bus.close()

    def _run(self) -> None:
        """Take the lease, take up the run, handle reports; a lost lease ends the process with exit code 75."""
        fence = self._acquire()
        if fence is None:
            return
        self._runner = Runner(
            self._settings,
            self._plan,
            self._problems,
            self._bus,
            self._environment.run_dir,
            self._clock,
            consumer=f"broker/{self._environment.replica}",
            fence=fence,
            train=self._environment.train,
        )
        # Ready only with the run taken up: until then the API would show a run that has not begun.
        self._runner.recover()
        self._ready.set()
        self._runner.loop(self._service.stopping, self._lease.lost)
        if self._lease.lost.is_set():
            raise FencedError("the broker's lease was lost to another broker; this one stops")
        # Only at an orderly end. A lost lease is another broker's by now.
        self._lease.release()

    def _acquire(self) -> int | None:
        # A Redis that lost its data counts fencing tokens from the start again; the files remember the highest one.
        floor = highest_fence(self._environment.run_dir)
        while not self._service.stopping.wait(0):
            if not self._presence.admitted.wait(LEASE_POLL_S):
                continue
            try:
                for queue, group in queues_of(self._plan.students):
                    self._bus.create_queue(queue, group)
                if self._lease.try_acquire(floor=floor):
                    return self._lease.token
                log.info("waiting for the lease of another broker to end")
            except UnavailableError as error:
                log.warning("redis does not answer", error=str(error))
            self._service.stopping.wait(LEASE_POLL_S)
        return None

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            service="broker",
            replica=self._environment.replica,
            state="ready" if self._problem() is None else "starting",
            url=own_url(self._environment.advertised_url, self._environment.url_file),
            at=self._clock.wall_s(),
        )

    def _current(self) -> Runner:
        if self._runner is None or not self._ready.is_set():
            raise UnavailableError("the broker has not taken up the run yet; try again")
        return self._runner

    def _problem(self) -> str | None:
        if self._service.stopping.is_set():
            return "draining"
        if not self._ready.is_set():
            return "waiting for Redis or for the lease of another broker"
        return self._runner.problem if self._runner else None
