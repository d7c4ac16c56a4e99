"""Chat messages and sampling settings: what a model is asked, on every path."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Contract(BaseModel):
    """Base of everything that crosses a process boundary: immutable, and unknown fields are an error.

    A number that is none crosses as "NaN", "Infinity" or "-Infinity", so that its reader can refuse what it belongs to.
    """

    # pydantic's default is null, which no field of floats takes: one bad number would make all of it unreadable
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ChatMessage(Contract):
    """One turn. Under the compact template a system message names the role that speaks next."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Contract):
    """How tokens are drawn. temperature 0 = greedy; top_p 1 = the whole distribution."""

    temperature: float = Field(ge=0, le=5)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1)
