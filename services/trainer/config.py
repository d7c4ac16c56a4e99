"""What a trainer takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.trainer.step import StepSettings
from shared.config.environment import ServiceEnvironment
from shared.config.settings import BusSection, StudentSection
from shared.contracts.ids import seed_of
from shared.contracts.messages import Contract
from shared.errors import ConfigError
from shared.http import check_binding
from shared.modeling.adapters import LoraSpec


class BaseModel(Contract):
    """`models/<student>.json`: the directory of a student's own weights and their sha256."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class TrainerConfig:
    """shorten_prompts: the problem format uses the published re-prompt, which can be shortened."""

    run: str
    run_dir: Path
    student: str
    replica: str
    redis_url: str
    bus: BusSection
    section: StudentSection
    base: BaseModel
    lora: LoraSpec
    adapter_seed: int
    step: StepSettings
    shorten_prompts: bool
    threads: int
    host: str
    port: int
    url_file: Path | None
    key: str | None
    max_body_bytes: int

    @property
    def consumer(self) -> str:
        return f"trainer-{self.student}-{self.replica}"


def trainer_config(environment: ServiceEnvironment) -> TrainerConfig:
    """Raises ConfigError naming what is missing or wrong."""
    settings, key = environment.settings(), environment.key()
    check_binding(environment.host, key)
    student = environment.student
    if student not in settings.students:
        raise ConfigError(f"OPCOD_STUDENT: expected one of {', '.join(settings.students)}, got {student!r}")
    return TrainerConfig(
        run=environment.run,
        run_dir=environment.run_dir,
        student=student,
        replica=environment.replica,
        redis_url=environment.redis_url,
        bus=settings.bus,
        section=settings.students[student],
        base=read_base_model(environment.run_dir, student),
        lora=LoraSpec(settings.lora.rank, settings.lora.scale, settings.lora.first_layer or None),
        adapter_seed=seed_of(settings.run.seed, student, "adapter"),
        step=StepSettings(
            settings.loss, settings.optimizer, settings.rollout.temperature, settings.run.method, settings.grpo
        ),
        shorten_prompts=settings.problems.format == "mcq",
        threads=settings.resources.threads,
        host=environment.host,
        port=environment.port,
        url_file=environment.url_file,
        key=key,
        max_body_bytes=settings.serving.max_body_bytes,
    )


def read_base_model(run_dir: Path, student: str) -> BaseModel:
    """Raises ConfigError if the launcher has not written it."""
    path = run_dir / "models" / f"{student}.json"
    try:
        return BaseModel.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"expected the student's base model (path, sha256) in {path}, written before services start: {error}"
        ) from error
