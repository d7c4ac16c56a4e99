"""What a person asks of a run, through the broker's API."""

from typing import Literal

from pydantic import Field

from shared.contracts.envelope import Message


class Control(Message):
    """pause: issue nothing new · resume: go on · abort: end the run as FAILED."""

    id: str
    action: Literal["pause", "resume", "abort"]
    reason: str = Field(default="asked for", max_length=500)

    @property
    def key(self) -> str:
        return f"control.{self.id}"
