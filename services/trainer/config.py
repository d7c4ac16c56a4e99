"""What a trainer takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.trainer.step.step import StepSettings
from shared.config.environment import ServiceEnvironment
from shared.config.machine import BusSection
from shared.config.settings import RunSettings, StudentSection
from shared.contracts.ids import seed_of
from shared.contracts.messages import Contract
from shared.errors import ConfigError
from shared.http.access import AccessKeys, Limits
from shared.http.app import check_binding
from shared.modeling.adapters import LoraSpec


class BaseModel(Contract):
    """`models/<student>.json`: the directory of a student's own weights and their sha256."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class TrainingConfig:
    """What decides a student's weights, given its sealed batches.

    lora: None trains all weights. shorten_prompts: the problem format uses the published re-prompt, which can be
    shortened.
    """

    run: str
    student: str
    section: StudentSection
    base: BaseModel
    lora: LoraSpec | None
    adapter_seed: int
    step: StepSettings
    shorten_prompts: bool
    threads: int


@dataclass(frozen=True)
class TrainerConfig:
    """A trainer as a service: what it trains, where it works and how it is reached."""

    training: TrainingConfig
    run_dir: Path
    replica: str
    redis_url: str
    bus: BusSection
    host: str
    port: int
    url_file: Path | None
    advertised_url: str | None
    keys: AccessKeys | None
    limits: Limits

    @property
    def consumer(self) -> str:
        return f"trainer-{self.student}-{self.replica}"

    @property
    def run(self) -> str:
        return self.training.run

    @property
    def student(self) -> str:
        return self.training.student


def trainer_config(environment: ServiceEnvironment) -> TrainerConfig:
    """Raises ConfigError naming what is missing or wrong."""
    settings, keys = environment.settings(), environment.keys()
    check_binding(environment.host, keys)
    student = environment.student
    if student not in settings.students:
        raise ConfigError(f"OPCOD_STUDENT: expected one of {', '.join(settings.students)}, got {student!r}")
    return TrainerConfig(
        training=training_config(settings, environment.run, environment.run_dir, student),
        run_dir=environment.run_dir,
        replica=environment.replica,
        redis_url=environment.bus_url(),
        bus=settings.bus,
        host=environment.host,
        port=environment.port,
        url_file=environment.url_file,
        advertised_url=environment.advertised_url,
        keys=keys,
        limits=settings.serving.limits,
    )


def training_config(settings: RunSettings, run: str, run_dir: Path, student: str) -> TrainingConfig:
    """Raises ConfigError if the student's base model is not named in `run_dir`."""
    return TrainingConfig(
        run=run,
        student=student,
        section=settings.students[student],
        base=read_base_model(run_dir, student),
        lora=_lora(settings),
        adapter_seed=seed_of(settings.run.seed, student, "adapter"),
        step=StepSettings(
            settings.loss, settings.optimizer, settings.rollout.temperature, settings.run.method, settings.grpo
        ),
        shorten_prompts=settings.problems.format == "mcq",
        threads=settings.resources.threads,
    )


def _lora(settings: RunSettings) -> LoraSpec | None:
    if settings.run.weights == "full":
        return None
    return LoraSpec(settings.lora.rank, settings.lora.scale, settings.lora.first_layer or None)


def read_base_model(run_dir: Path, student: str) -> BaseModel:
    """Raises ConfigError if the launcher has not written it."""
    path = run_dir / "models" / f"{student}.json"
    try:
        return BaseModel.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"expected the student's base model (path, sha256) in {path}, written before services start: {error}"
        ) from error
