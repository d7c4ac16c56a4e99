"""What a student takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.config.environment import ServiceEnvironment
from shared.config.machine import BusSection
from shared.config.settings import RunSettings, StudentSection
from shared.contracts.jobs import JobKind
from shared.contracts.messages import Contract, Sampling
from shared.errors import ConfigError
from shared.http.access import AccessKeys
from shared.http.app import check_binding

INTERACTIVE_BOUND = 24
"""Requests of people that are unanswered at once; more are refused, since they would only wait and be late."""


@dataclass(frozen=True)
class StudentConfig:
    """domain, peer_domain: what this student, and its peer, are strong in."""

    run: str
    run_dir: Path
    student: str
    replica: str
    redis_url: str
    host: str
    port: int
    url_file: Path | None
    advertised_url: str | None
    keys: AccessKeys | None
    section: StudentSection
    bus: BusSection
    settings: RunSettings
    domain: str
    peer_domain: str

    @property
    def weights(self) -> Path:
        return self.run_dir / "weights" / self.student

    @property
    def chat_sampling(self) -> Sampling:
        return self.settings.evaluation.sampling

    @property
    def feedback_sampling(self) -> Sampling:
        return self.settings.feedback.sampling

    @property
    def expected_sequences(self) -> dict[JobKind, int]:
        """How large a job of each kind is before one was seen."""
        samples = self.settings.rollout.samples
        evaluation = self.settings.evaluation
        return {
            JobKind.FEEDBACK: samples,
            JobKind.REVISE: samples,
            JobKind.ROLLOUT: samples,
            JobKind.EVAL: evaluation.problems_per_job * max(evaluation.validation_samples, evaluation.test_samples),
        }

    def base_model(self) -> str | None:
        """What manifests must name as their base; a scripted student has none."""
        return None if self.section.engine == "scripted" else self.prepared_model().sha256

    def prepared_model(self) -> "PreparedModel":
        """The base weights, as the launcher prepared them. Raises ConfigError."""
        path = self.run_dir / "models" / f"{self.student}.json"
        try:
            return PreparedModel.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(f"expected the prepared model of student {self.student} in {path}: {error}") from error


class PreparedModel(Contract):
    """`models/<student>.json`, written before any service starts."""

    path: str
    sha256: str

    @property
    def directory(self) -> Path:
        return Path(self.path)


class ScriptEnvironment(BaseSettings):
    """OPCOD_SCRIPT_*: how the scripted engine behaves, for tests of slow and of malicious students."""

    model_config = SettingsConfigDict(env_prefix="OPCOD_SCRIPT_", extra="ignore")

    latency_s: float = Field(default=0.0, ge=0)
    nonsense_share: float = Field(default=0.0, ge=0, le=1)
    obedience: float = Field(default=0.0, ge=0, le=1)


class VllmEnvironment(BaseSettings):
    """OPCOD_VLLM_*: what must not lie in the run's settings."""

    model_config = SettingsConfigDict(env_prefix="OPCOD_VLLM_", extra="ignore")

    key: SecretStr | None = None


def student_config(environment: ServiceEnvironment) -> StudentConfig:
    """Raises ConfigError, also when it would listen beyond loopback without keys."""
    settings, keys = environment.settings(), environment.keys()
    check_binding(environment.host, keys)
    student = environment.student
    if student not in settings.students:
        raise ConfigError(f"OPCOD_STUDENT: expected one of {', '.join(settings.students)}, got {student!r}")
    section = settings.students[student]
    return StudentConfig(
        run=environment.run,
        run_dir=environment.run_dir,
        student=student,
        replica=environment.replica,
        redis_url=environment.bus_url(),
        host=environment.host,
        port=environment.port or section.port,
        url_file=environment.url_file,
        advertised_url=environment.advertised_url,
        keys=keys,
        section=section,
        bus=settings.bus,
        settings=settings,
        domain=section.domain,
        peer_domain=settings.students[settings.peer_of(student)].domain,
    )
