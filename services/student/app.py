"""A student put together: bus, leases, engine thread, heartbeat thread and HTTP app.

The engine is built in its own thread, so that the probes answer from the start; only what the run's engine needs
is imported, so a scripted student starts without torch.
"""

import threading
from contextlib import closing

from fastapi import FastAPI

from services.student.board import Board, student_heartbeat
from services.student.config import INTERACTIVE_BOUND, ScriptEnvironment, StudentConfig, student_config
from services.student.engines.port import Engine, Sleeper
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.http.api import StudentApi, student_routes
from services.student.http.interactive import InteractiveQueue
from services.student.weights.loader import WeightLoader
from services.student.weights.versions import VersionKeeper
from services.student.work.calls import Running
from services.student.work.duty import Duties
from services.student.work.jobs import JobIntake, Outbox, Room
from services.student.work.resting import Rest
from services.student.work.worker import EngineWorker
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Bus
from shared.bus.redis import RedisBus
from shared.bus.turns import CardTurn
from shared.clock import Clock, SystemClock
from shared.config.environment import service_environment
from shared.config.machine import cores_here
from shared.errors import ConfigError
from shared.http.app import create_app
from shared.http.serving import Service
from shared.obs.logging import configure_logging
from shared.obs.presence import Presence
from shared.obs.usage import UsageMeter, gpus_given
from shared.problems.loading import problems_of

BUILD_ALLOWANCE_S = 600.0
"""A model of a few billion parameters takes minutes from a cold disk."""

SLEEP_ALLOWANCE_S = 600.0
"""That an engine may take to sleep or to wake: its weights go to the host, and come back."""

SCRIPTED_ACCURACY = (0.7, 0.5)
"""Of a scripted student, in its own domain and in any other."""


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    environment = service_environment()
    configure_logging(
        json=environment.log_json,
        service="student",
        run=environment.run,
        student=environment.student,
        replica=environment.replica,
    )
    return serve(student_config(environment))


def serve(config: StudentConfig) -> int:
    clock = SystemClock()
    bus = RedisBus(
        config.environment.bus_url(),
        config.environment.run,
        lease_s=config.settings.bus.lease_s,
        max_attempts=config.settings.bus.max_attempts,
        deadline_s=config.settings.bus.deadline_s,
    )
    if config.environment.url_file is not None:
        # Of a process before this one: the heartbeat would tell its address.
        config.environment.url_file.unlink(missing_ok=True)
    board, interactive = Board(clock), InteractiveQueue(bound=INTERACTIVE_BOUND)
    running, ended = Running(clock), threading.Event()
    service = Service("student")
    presence = Presence(
        bus,
        lambda: student_heartbeat(config, board, clock, service.stopping),
        period_s=config.settings.bus.heartbeat_s,
        meter=UsageMeter(gpus=gpus_given() if config.computes else None),
    )
    service.spawn(
        "engine",
        lambda: run_engine(config, bus, board, interactive, running, clock, service.stopping, ended, presence.admitted),
    )
    service.spawn("watch", lambda: running.watch(service.stopping, ended))
    service.spawn("heartbeat", lambda: presence.run(service.stopping))
    try:
        app = build_app(config, board, interactive, clock)
        return service.serve(app, host=config.environment.host, port=config.port, url_file=config.environment.url_file)
    finally:
        bus.close()


def build_app(config: StudentConfig, board: Board, interactive: InteractiveQueue, clock: Clock) -> FastAPI:
    """Probes and the student's API."""
    limits = config.settings.serving.limits
    app = create_app(f"opcod student {config.student}", ready=board.not_ready, keys=config.keys, limits=limits)
    app.include_router(student_routes(StudentApi(config, board, interactive, clock)))
    return app


def run_engine(
    config: StudentConfig,
    bus: Bus,
    board: Board,
    interactive: InteractiveQueue,
    running: Running,
    clock: Clock,
    stopping: threading.Event,
    ended: threading.Event,
    admitted: threading.Event,
) -> None:
    """The engine's thread: build the engine, then work until `stopping`. `ended` is set however it ends."""
    turn = card_turn(config, bus, clock)
    try:
        if turn is not None and not turn.wait(stopping, board.beat):
            return
        board.beat(allowance_s=BUILD_ALLOWANCE_S + config.section.vllm.start_timeout_s)
        lease_s = config.settings.bus.lease_s
        # Who has its GPU in turns leaves it where its turn may have run out: nothing goes on that is not known to be
        # ours.
        with (
            closing(build_engine(config)) as engine,
            LeaseKeeper(bus, lease_s=lease_s, waits=turn is None) as leases,
        ):
            rest = None
            if turn is not None:
                if not isinstance(engine, Sleeper):
                    raise ConfigError(f"resources.turns: the engine of student {config.student} cannot sleep")
                rest = Rest(engine, turn, clock, lambda: board.beat(allowance_s=SLEEP_ALLOWANCE_S))
            worker = build_worker(
                config,
                engine=engine,
                bus=bus,
                leases=leases,
                board=board,
                interactive=interactive,
                running=running,
                clock=clock,
                stopping=stopping,
                admitted=admitted,
                rest=rest,
            )
            worker.run()
    finally:
        if turn is not None:
            # The engine is closed by now, and has freed the card.
            turn.give_back()
        # However the thread ends, nobody may wait for an answer that no thread will give.
        interactive.close()
        ended.set()


def build_worker(
    config: StudentConfig,
    *,
    engine: Engine,
    bus: Bus,
    leases: LeaseKeeper,
    board: Board,
    interactive: InteractiveQueue,
    running: Running,
    clock: Clock,
    stopping: threading.Event,
    admitted: threading.Event,
    rest: Rest | None = None,
) -> EngineWorker:
    """Everything that the engine's thread alone uses. admitted: set once no other process has this replica's name.
    rest: of an engine that shares its GPU."""
    outbox, duties = Outbox(), None
    if config.settings.keeps_apart(config.student):
        period_s = config.settings.bus.heartbeat_s
        duties = Duties(config.student, config.environment.replica, bus, clock, period_s=period_s)
    versions = VersionKeeper(
        student=config.student,
        replica=config.environment.replica,
        engine=engine,
        loader=build_loader(config, engine),
        bus=bus,
        outbox=outbox,
        board=board,
        clock=clock,
        duties=duties,
    )
    intake = JobIntake(
        student=config.student,
        replica=config.environment.replica,
        bus=bus,
        outbox=outbox,
        leases=leases,
        room=Room(engine.slots, config.expected_sequences),
        max_attempts=config.settings.bus.max_attempts,
        continuous=engine.continuous,
        finished=lambda: engine.finished,
        duties=duties,
    )
    return EngineWorker(
        engine=engine,
        intake=intake,
        versions=versions,
        outbox=outbox,
        interactive=interactive,
        board=board,
        running=running,
        clock=clock,
        stopping=stopping,
        admitted=admitted,
        rest=rest,
    )


def card_turn(config: StudentConfig, bus: Bus, clock: Clock) -> CardTurn | None:
    """None where the engine has its GPU for as long as it runs."""
    if not config.settings.resources.turns:
        return None
    holder = f"student-{config.student}-{config.environment.replica}"
    return CardTurn(bus, holder, clock, ttl_s=config.settings.bus.lease_s)


def build_loader(config: StudentConfig, engine: Engine) -> WeightLoader:
    """Of this student's published versions. Raises ConfigError if its base model is not prepared."""
    return WeightLoader(
        config.weights,
        run=config.environment.run,
        student=config.student,
        engine=engine,
        base_model=config.base_model(),
    )


def build_engine(config: StudentConfig) -> Engine:
    """The engine that the settings name. Raises ConfigError or ModelError."""
    if config.section.engine == "scripted":
        return _scripted(config)
    if config.section.engine == "vllm":
        # Here and not above: torch takes seconds and hundreds of megabytes, which a scripted student must not need.
        from services.student.engines.vllm.build import build_vllm_engine

        return build_vllm_engine(config)
    from services.student.engines.transformers import TransformersEngine
    from shared.modeling.device import device_here

    device = device_here()
    return TransformersEngine(
        config.prepared_model().path,
        config.section.chat_template,
        config.section.dtype,
        config.section.slots,
        config.settings.threads_on(device, cores_here()),
        device=device,
    )


def _scripted(config: StudentConfig) -> Engine:
    settings = config.settings
    behaviour = ScriptEnvironment()
    problems = problems_of(settings)
    at_home, elsewhere = SCRIPTED_ACCURACY
    script = Script(
        problems=tuple(problems.all_problems()),
        accuracy=dict.fromkeys(problems.domains, elsewhere) | {config.domain: at_home},
        nonsense_share=behaviour.nonsense_share,
        obedience=behaviour.obedience,
        latency_s=behaviour.latency_s,
    )
    return ScriptedEngine(script, slots=config.section.slots)
