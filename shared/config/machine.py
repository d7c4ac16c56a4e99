"""The settings of what a run uses of its machine: Redis, threads, disk, GPUs."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from shared.bus.redis_url import names_password, with_password
from shared.config.section import Positive, Section
from shared.errors import ConfigError
from shared.files.text import expanded


def _without_password(url: object) -> object:
    """Before anything else looks at it: other refusals show what came."""
    try:
        secret = isinstance(url, str) and names_password(url)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if secret:
        raise ValueError(
            "expected a URL without a password, which would stand in files of the run; write it to a file that only "
            "you can read, and name that in bus.password_file"
        )
    return url


class BusSection(Section):
    """Redis and the leases on its queues."""

    url: Annotated[str, BeforeValidator(_without_password)] | None = Field(
        default=None,
        description="redis://…, with the user's name where Redis knows one; none = an embedded server of the "
        "launcher's.",
    )
    password_file: Path | None = Field(default=None, description="The password that goes with `url`.")
    lease_s: float = Field(default=60.0, gt=0)
    leader_lease_s: float = Field(default=10.0, gt=0, description="The broker's own lease.")
    max_attempts: Positive = 3
    deadline_s: float = Field(default=10.0, gt=0, description="No single call waits longer for the server.")
    heartbeat_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _password_of_something(self) -> Self:
        if self.password_file is not None and self.url is None:
            raise ValueError("password_file: the embedded server has no password; name bus.url, or leave it out")
        return self

    def secret_url(self) -> str | None:
        """`url` with the password of the file, if one is named. Raises ConfigError if that cannot be read."""
        if self.url is None or self.password_file is None:
            return self.url
        return with_password(self.url, expanded(self.password_file))


class ResourcesSection(Section):
    """What the processes may use on this machine."""

    threads: Positive = Field(default=1, description="Threads of each model process; never more than cores in all.")
    min_free_disk_bytes: int = Field(default=2_000_000_000, ge=0)
    gpus: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="GPUs by service, of all that use one: `{ student-a = [0], student-b = [1], trainer-a = [2], "
        "trainer-b = [3] }`; none: `opcod run` shares out those that there are (docs/engines.md).",
    )
