"""The trainer put together: bus, store, model, and the thread that trains.

The model is loaded in that thread, so that probes answer from the start. A process that loses its lease ends with
exit code 75 and is started again; it then waits for the lease like any other.
"""

import threading

import structlog

from services.trainer import metrics
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import TrainerConfig, TrainingConfig, trainer_config
from services.trainer.consumer import Consumer, LeaseFence, TrainerBoard, trainer_heartbeat
from services.trainer.device import set_up
from services.trainer.model.learner import Learner
from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import TrustRegionTeacher
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from services.trainer.trainer import StudentTrainer
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Bus
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.environment import service_environment
from shared.files.store import LocalStore
from shared.http.app import create_app
from shared.http.serving import Service
from shared.modeling.device import device_here
from shared.modeling.loading import load_model, load_tokenizer
from shared.obs.logging import configure_logging
from shared.obs.presence import Presence, own_url

log = structlog.get_logger()
NAME_POLL_S = 0.5


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    environment = service_environment()
    configure_logging(
        json=environment.log_json,
        service="trainer",
        run=environment.run,
        student=environment.student,
        replica=environment.replica,
    )
    return serve(trainer_config(environment))


def serve(config: TrainerConfig) -> int:
    set_up(config.settings, device_here())
    bus = RedisBus(
        config.environment.bus_url(),
        config.training.run,
        lease_s=config.settings.bus.lease_s,
        max_attempts=config.settings.bus.max_attempts,
        deadline_s=config.settings.bus.deadline_s,
    )
    board = TrainerBoard()
    clock = SystemClock()
    presence = Presence(
        bus,
        lambda: trainer_heartbeat(
            board,
            clock,
            student=config.training.student,
            replica=config.environment.replica,
            url=own_url(config.environment.advertised_url, config.environment.url_file),
        ),
        period_s=config.settings.bus.heartbeat_s,
    )
    service = Service("trainer")
    service.spawn("trainer", lambda: _train(config, bus, board, service, presence))
    service.spawn("heartbeat", lambda: presence.run(service.stopping))
    app = create_app("opcod trainer", ready=board.problem, keys=config.keys, limits=config.settings.serving.limits)
    try:
        return service.serve(
            app, host=config.environment.host, port=config.environment.port, url_file=config.environment.url_file
        )
    finally:
        bus.close()


def _train(config: TrainerConfig, bus: Bus, board: TrainerBoard, service: Service, presence: Presence) -> None:
    board.state = "waiting for its name"
    while not presence.admitted.wait(NAME_POLL_S):
        if service.stopping.is_set():
            return
    board.state = "loading the model"
    store = LocalStore(config.environment.run_dir)
    store.sweep_temporary()
    checkpoints = Checkpoints(
        store, run=config.training.run, student=config.training.student, base_sha256=config.training.base.sha256
    )
    trainer = build_trainer(config.training, store, checkpoints, service.stopping)
    board.rendering = trainer.rendering
    fence = LeaseFence(bus, config.training.student, config.consumer, ttl_s=config.settings.bus.lease_s)
    with LeaseKeeper(bus, lease_s=config.settings.bus.lease_s) as keeper:
        consumer = Consumer(
            bus,
            trainer,
            fence,
            keeper,
            board,
            student=config.training.student,
            name=config.consumer,
            lease_s=config.settings.bus.lease_s,
        )
        consumer.run(service.stopping, checkpoints.highest_token())


def build_trainer(
    config: TrainingConfig,
    store: LocalStore,
    checkpoints: Checkpoints,
    stopping: threading.Event,
    *,
    batches: LocalStore | None = None,
) -> StudentTrainer:
    """Load model and tokenizer. batches: where sealed batches lie, if not in `store`. Raises ModelError."""
    model = build_model(config)
    _tell_packing(model)
    loss = config.step.loss
    teacher = TrustRegionTeacher(model, loss.trust_region_mix) if loss.teacher == "trust_region" else None
    learner = Learner(model, config.step.optimizer, teacher)
    return StudentTrainer(
        learner,
        load_tokenizer(config.base.path, config.section.chat_template),
        store,
        checkpoints,
        config.step,
        run=config.run,
        student=config.student,
        base_model=config.base.sha256,
        shorten_prompts=config.shorten_prompts,
        stopping=stopping,
        batches=batches,
    )


def build_model(config: TrainingConfig) -> StudentModel:
    """The student as its training begins. Raises ModelError."""
    device = device_here()
    base = load_model(config.base.path, config.section.dtype, device)
    trained = (
        TrainedModel(base, config.base.path)
        if config.lora is None
        else TrainedAdapter(base, config.lora, config.adapter_seed)
    )
    return StudentModel(trained, recompute=config.settings.trainer.recomputes(device))


def _tell_packing(model: StudentModel) -> None:
    packing = model.packing
    metrics.TREE_TOKENS.set(packing.tree_tokens)
    if packing.reason:
        kind = model.config.model_type
        log.warning("steps take longer", model_type=kind, tree_tokens=packing.tree_tokens, reason=packing.reason)
