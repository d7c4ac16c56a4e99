"""Chat messages and sampling settings: what a model is asked, on every path."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError


def _worded(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "String should have more than white space")
    return text


Worded = Annotated[str, Field(min_length=1), AfterValidator(_worded)]
"""A text that says something, such as a question: not empty, and not white space alone."""


class Contract(BaseModel):
    """Base of everything that crosses a process boundary: immutable, and unknown fields are an error.

    A number that is none crosses as "NaN", "Infinity" or "-Infinity", so that its reader can refuse what it belongs to.
    """

    # pydantic's default is null, which no field of floats takes: one bad number would make all of it unreadable
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ChatMessage(Contract):
    """One turn. Under the compact template a system message of one word names the role that speaks next."""

    role: Literal["system", "user", "assistant"]
    content: str


LEAST_TEMPERATURE = 1e-5
"""What is lower is greedy, as to vLLM: logits that are divided by it overflow, and are no numbers then."""


class Sampling(Contract):
    """How tokens are drawn. temperature 0 = greedy; top_p 1 = the whole distribution."""

    temperature: float = Field(ge=0, le=5)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1)

    @field_validator("temperature")
    @classmethod
    def _drawable(cls, value: float) -> float:
        return value if value >= LEAST_TEMPERATURE else 0.0
