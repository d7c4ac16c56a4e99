"""Questions to one version of a student outside a run's queues, and its answers: files between two processes."""

from pydantic import Field

from shared.contracts.messages import ChatMessage, Contract, Sampling


class Question(Contract):
    """One prompt. Sample j is drawn with seed_of(seed, j), whatever else is asked."""

    messages: tuple[ChatMessage, ...]
    seed: int


class Questions(Contract):
    """`samples` answers are wanted to each question; they come as PromptOutputs, one a line, in this order."""

    student: str
    version: str
    samples: int = Field(ge=1)
    sampling: Sampling
    questions: tuple[Question, ...]
