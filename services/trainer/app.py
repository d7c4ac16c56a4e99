"""The trainer put together: bus, store, model, and the thread that trains.

The model is loaded in that thread, so that probes answer from the start. A process that loses its lease ends with
exit code 75 and is started again; it then waits for the lease like any other. With several ranks this is rank 0; the
others only load the model and work as they are told.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from services.trainer import metrics
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import TrainerConfig, TrainingConfig, trainer_config
from services.trainer.consumer import Consumer, TrainerBoard, trainer_heartbeat
from services.trainer.device import set_up
from services.trainer.lease import LeaseFence
from services.trainer.model.learner import Learner
from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import EmaTeacher, NoTeacher, TrustRegionTeacher
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from services.trainer.ranks.group import Alone, Group, RankLostError
from services.trainer.ranks.leading import Command, LeadWork, follow, next_command, told
from services.trainer.trainer import StudentTrainer
from services.trainer.work import RankWork, StepWork
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Bus
from shared.bus.redis import RedisBus
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from shared.config.environment import service_environment
from shared.files.store import LocalStore
from shared.http.app import create_app
from shared.http.serving import Service
from shared.modeling.device import device_here
from shared.modeling.loading import load_model, load_tokenizer
from shared.obs.logging import configure_logging
from shared.obs.presence import Presence, own_url
from shared.obs.usage import UsageMeter, gpus_given
from shared.parents import end_with

if TYPE_CHECKING:
    from services.trainer.model.sharded import ShardedStudent
    from services.trainer.ranks.processes import Ranks

log = structlog.get_logger()
NAME_POLL_S = 0.5

LEADER_ENDS_S = 30.0
"""That a rank which lost rank 0 waits to be ended: how rank 0 ends is what the supervisor goes by."""


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    environment = service_environment()
    configure_logging(
        json=environment.log_json,
        service="trainer",
        run=environment.run,
        student=environment.student,
        replica=environment.replica,
        rank=os.environ.get("RANK"),
    )
    config = trainer_config(environment)
    ranks = config.settings.trainer.ranks
    if ranks == 1 and environment.nodes == 1:
        return serve(config)
    # Not before: a trainer of one rank needs none of it.
    from services.trainer.ranks.launching import is_rank, launch, node_of

    if is_rank():
        return serve_rank(config)
    # By the student's name: nodes on which replicas are called otherwise are to meet, too.
    return launch("services.trainer", f"trainer-{environment.student}", ranks, node=node_of(environment))


def serve_rank(config: TrainerConfig) -> int:
    """As one of several ranks; rank 0 serves."""
    from services.trainer.ranks.processes import Ranks

    ranks = Ranks(device_here(), config.settings.trainer.rank_timeout_s)
    if ranks.rank == 0:
        return serve(config, ranks)
    checkpoints, store = _state_of(config)
    return follow_rank_0(config.training, store, checkpoints, ranks)


def follow_rank_0(config: TrainingConfig, batches: LocalStore, checkpoints: Checkpoints, ranks: "Ranks") -> int:
    """Work as rank 0 says, until it says stop. batches: where sealed batches lie."""
    # The agent tells all of us to end. Rank 0 first ends what it has begun, for which it needs us.
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    end_with(os.getppid(), signal.SIGKILL)
    set_up(config.settings, device_here())
    try:
        if next_command(ranks.heard).name == "begin":
            work = build_work(config, batches, checkpoints, ranks)
            ranks.texts("ready")
            follow(work, ranks.heard)
    except (RankLostError, RuntimeError):  # the latter from torch, where weights are gathered
        # Whose end came first decides how the group is started again: that is not ours.
        asked.wait(LEADER_ENDS_S)
        raise
    return 0


def serve(config: TrainerConfig, ranks: "Ranks | None" = None) -> int:
    """ranks: those that this process leads."""
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
    whole = os.getpid() if ranks is None else os.getppid()  # the agent, which started the other ranks, too
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
        meter=UsageMeter(whole, gpus_given(whole)),
    )
    service = Service("trainer")
    service.spawn("trainer", lambda: _train(config, bus, board, service, presence, ranks))
    if ranks is not None:
        service.spawn("signs of life", lambda: ranks.beat(service.stopping))
    service.spawn("heartbeat", lambda: presence.run(service.stopping))
    app = create_app("opcod trainer", ready=board.problem, keys=config.keys, limits=config.settings.serving.limits)
    try:
        return service.serve(
            app, host=config.environment.host, port=config.environment.port, url_file=config.environment.url_file
        )
    finally:
        bus.close()


@contextmanager
def _leading(ranks: "Ranks | None") -> Iterator[None]:
    """The other ranks stop when this ends. Not where it fails: then the process ends, and the agent ends them."""
    yield
    if ranks is not None:
        with told(ranks, Command(name="stop")):
            pass


def _train(
    config: TrainerConfig,
    bus: Bus,
    board: TrainerBoard,
    service: Service,
    presence: Presence,
    ranks: "Ranks | None",
) -> None:
    with _leading(ranks):
        board.state = "waiting for its name"
        while not presence.admitted.wait(NAME_POLL_S):
            if service.stopping.is_set():
                return
        turn = _card_turn(config, bus)
        if turn is not None:
            board.state = "waiting for its turn to load the model"
            if not turn.wait(service.stopping):
                return
        board.state = "loading the model"
        checkpoints, store = _state_of(config)
        store.sweep_temporary()
        trainer = build_trainer(config.training, store, checkpoints, service.stopping, ranks=ranks)
        if turn is not None:
            trainer.move("cpu")
            turn.give_back()
        board.rendering = trainer.rendering
        # Who has its GPU in turns leaves it where its turn may have run out.
        lease_s, waits = config.settings.bus.lease_s, turn is None
        fence = LeaseFence(bus, config.training.student, config.consumer, ttl_s=lease_s, waits=waits)
        with LeaseKeeper(bus, lease_s=lease_s, waits=waits) as keeper:
            consumer = Consumer(
                bus,
                trainer,
                fence,
                keeper,
                board,
                student=config.training.student,
                name=config.consumer,
                lease_s=lease_s,
                turn=turn,
                device=device_here(),
            )
            consumer.run(service.stopping, checkpoints.highest_token())


def _card_turn(config: TrainerConfig, bus: Bus) -> CardTurn | None:
    """None where the trainer has its GPU for as long as it runs."""
    if not config.settings.resources.turns:
        return None
    holder = f"trainer-{config.training.student}-{config.environment.replica}"
    return CardTurn(bus, holder, SystemClock(), ttl_s=config.settings.bus.lease_s)


def build_trainer(
    config: TrainingConfig,
    store: LocalStore,
    checkpoints: Checkpoints,
    stopping: threading.Event,
    *,
    batches: LocalStore | None = None,
    ranks: "Ranks | None" = None,
) -> StudentTrainer:
    """Load model and tokenizer. batches: where sealed batches lie, if not in `store`. ranks: those that this process
    leads, which load them, too. Raises ModelError."""
    work: StepWork
    if ranks is None:
        work = build_work(config, batches or store, checkpoints)
    else:
        with told(ranks, Command(name="begin")):
            own = build_work(config, batches or store, checkpoints, ranks)
            # Here they wait for the slowest, and not where somebody is expected to listen.
            ranks.texts("ready")
        work = LeadWork(own, ranks)
    return StudentTrainer(
        work,
        store,
        checkpoints,
        config.step,
        run=config.run,
        student=config.student,
        base_model=config.base.sha256,
        stopping=stopping,
    )


def build_work(
    config: TrainingConfig, batches: LocalStore, checkpoints: Checkpoints, group: Group | None = None
) -> RankWork:
    """The part of one rank. batches: where sealed batches lie. Raises ModelError."""
    learner = build_learner(config, group or Alone())
    _tell_packing(learner.model)
    return RankWork(
        learner,
        load_tokenizer(config.base.path, config.section.chat_template),
        batches,
        checkpoints,
        config.step,
        run=config.run,
        shorten_prompts=config.shorten_prompts,
    )


def build_learner(config: TrainingConfig, group: Group) -> Learner:
    """As the training begins. Of all weights each rank holds a part, an adapter is whole on each. Raises ModelError."""
    sharded = group.size > 1 and config.lora is None
    model = build_sharded(config, group) if sharded else build_model(config)
    return Learner(model, config.step.optimizer, _build_teacher(config, model, group), group)


def _build_teacher(config: TrainingConfig, model: StudentModel, group: Group) -> EmaTeacher:
    """Of a model that is shared out it is a second one that is. Raises ModelError."""
    rate, loss = config.step.optimizer.ema_rate, config.step.loss
    if not config.settings.keeps_teacher:
        return NoTeacher(model)
    if model.sharded:
        from services.trainer.model.sharded import ShardedTeacher

        return ShardedTeacher(model, rate, build_sharded(config, group))
    if loss.teacher == "trust_region":
        return TrustRegionTeacher(model, loss.trust_region_mix)
    return EmaTeacher(model, rate)


def build_sharded(config: TrainingConfig, group: Group) -> "ShardedStudent":
    """All weights of the student, shared out over the ranks. Raises ModelError."""
    from services.trainer.model.sharded import ShardedModel, ShardedStudent

    device = device_here()
    # To the host, where it stays in its files: of each block a rank keeps its rows alone.
    base = load_model(config.base.path, config.section.dtype)
    trained = ShardedModel(base, config.base.path, group, device)
    return ShardedStudent(trained, recompute=config.settings.trainer.recomputes(device))


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


def _state_of(config: TrainerConfig) -> tuple[Checkpoints, LocalStore]:
    store, training = LocalStore(config.environment.run_dir), config.training
    checkpoints = Checkpoints(store, run=training.run, student=training.student, base_sha256=training.base.sha256)
    return checkpoints, store


def _tell_packing(model: StudentModel) -> None:
    packing = model.packing
    metrics.TREE_TOKENS.set(packing.tree_tokens)
    if packing.reason:
        kind = model.config.model_type
        log.warning("steps take longer", model_type=kind, tree_tokens=packing.tree_tokens, reason=packing.reason)
