"""Traces: where student and self-teacher disagree on a rollout, token by token, as the loss saw it.

`traces/<student>/s00017.json` holds those of one step, beside its sealed batch. They are written for a share of the
rollouts (`loss.trace_share`), for people to look at; nothing is trained on them.
"""

from shared.contracts.ids import step_name
from shared.contracts.messages import Contract


class Alternative(Contract):
    """A token that a model would choose here, and with what probability."""

    text: str
    probability: float


class TokenTrace(Contract):
    """One token of a rollout. text: what it adds to the answer ("" where a character needs further tokens).

    divergence: between student and self-teacher at this token, in nats, before the importance weight `weight`.
    Log-probs of the sampled token and the likeliest alternatives, best first, are over the whole vocabulary at the
    temperature of the rollouts, and so is the student's entropy, in nats; a trace may be without it (None).
    """

    text: str
    divergence: float
    weight: float
    student_logprob: float
    teacher_logprob: float
    student_top: tuple[Alternative, ...]
    teacher_top: tuple[Alternative, ...]
    student_entropy: float | None = None


class RolloutTrace(Contract):
    """The first tokens of one rollout, and how many it has in all."""

    problem_id: str
    sample: int
    all_tokens: int
    tokens: tuple[TokenTrace, ...]


class StepTrace(Contract):
    """Of one step: `version` is the student that the rollouts came from. With several updates in a step, a rollout
    is traced at the update that it was part of. share: the setting that it was made under."""

    run: str
    student: str
    step: int
    version: str
    batch_sha256: str
    share: float
    rollouts: tuple[RolloutTrace, ...]


HEAT_NATS = (0, 0.01, 0.03, 0.1, 0.3, 1)
"""Where each step of a heat map of traces begins: the same colour says the same divergence on every page."""


def heat(divergence: float) -> int:
    """Which of the steps of HEAT_NATS a divergence falls into."""
    return sum(divergence >= start for start in HEAT_NATS[1:])


def step_trace(student: str, step: int) -> str:
    """Where the traces of a step lie, relative to the run's directory."""
    return f"traces/{student}/{step_name(step)}.json"
