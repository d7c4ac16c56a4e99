"""What a student takes of the run's settings and its environment, checked."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.config.environment import ServiceConfig, ServiceEnvironment
from shared.config.students import StudentSection
from shared.contracts.jobs import JobKind
from shared.contracts.messages import Sampling
from shared.contracts.models import PreparedModel, prepared_model
from shared.http.access import check_binding

INTERACTIVE_BOUND = 24
"""Requests of people that are unanswered at once; more are refused, since they would only wait and be late."""


@dataclass(frozen=True)
class StudentConfig(ServiceConfig):
    """One replica of a student."""

    student: str

    @property
    def port(self) -> int:
        return self.environment.port or self.section.port

    @property
    def section(self) -> StudentSection:
        return self.settings.students[self.student]

    @property
    def domain(self) -> str:
        """What this student is strong in."""
        return self.section.domain

    @property
    def peer_domain(self) -> str:
        """What a peer that nobody named is taken to be strong in: whoever comes next."""
        peers = self.settings.peers_of(self.student)
        # Of a student without peers there is no other domain to name.
        return self.settings.students[peers[0] if peers else self.student].domain

    @property
    def weights(self) -> Path:
        return self.environment.run_dir / "weights" / self.student

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

    @property
    def computes(self) -> bool:
        """Whether it, or a server that it starts, runs a model here."""
        return self.section.engine != "scripted" and self.section.vllm.url is None

    def prepared_model(self) -> PreparedModel:
        """The base weights. Raises ConfigError."""
        return prepared_model(self.environment.run_dir, self.student)


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
    return StudentConfig(environment, settings, keys, environment.student_in(settings))
