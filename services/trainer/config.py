"""What a trainer takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from services.trainer.step.step import StepSettings
from shared.config.environment import ServiceConfig, ServiceEnvironment
from shared.config.settings import RunSettings
from shared.config.students import StudentSection
from shared.contracts.ids import seed_of
from shared.contracts.models import PreparedModel, prepared_model
from shared.http.access import check_binding
from shared.modeling.adapters import LoraSpec


@dataclass(frozen=True)
class TrainingConfig:
    """What decides a student's weights, given its sealed batches."""

    run: str
    student: str
    settings: RunSettings
    base: PreparedModel

    @property
    def section(self) -> StudentSection:
        return self.settings.students[self.student]

    @property
    def lora(self) -> LoraSpec | None:
        """None trains all weights."""
        if self.settings.run.weights == "full":
            return None
        lora = self.settings.lora
        # A vLLM server computes with an adapter as it is, in the model's type; the other engines merge it in fp32.
        dtype = self.section.dtype if self.section.engine == "vllm" else "float32"
        return LoraSpec(lora.rank, lora.scale, lora.first_layer or None, dtype)

    @property
    def adapter_seed(self) -> int:
        return seed_of(self.settings.run.seed, self.student, "adapter")

    @property
    def step(self) -> StepSettings:
        given = self.settings
        return StepSettings(
            given.loss, given.optimizer, given.rollout.temperature, given.run.method, given.grpo, given.hacpo
        )

    @property
    def shorten_prompts(self) -> bool:
        """Whether the problem format uses the published re-prompt, which can be shortened."""
        return self.settings.problems.format == "mcq"


@dataclass(frozen=True)
class TrainerConfig(ServiceConfig):
    """A trainer as a service, and what it trains."""

    training: TrainingConfig

    @property
    def consumer(self) -> str:
        return f"trainer-{self.training.student}-{self.environment.replica}"


def trainer_config(environment: ServiceEnvironment) -> TrainerConfig:
    """Raises ConfigError naming what is missing or wrong."""
    settings, keys = environment.settings(), environment.keys()
    check_binding(environment.host, keys)
    student = environment.student_in(settings)
    return TrainerConfig(
        environment, settings, keys, training_config(settings, environment.run, environment.run_dir, student)
    )


def training_config(settings: RunSettings, run: str, run_dir: Path, student: str) -> TrainingConfig:
    """Raises ConfigError if the student's base model is not named in `run_dir`."""
    return TrainingConfig(run, student, settings, prepared_model(run_dir, student))
