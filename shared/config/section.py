"""What every section of the settings is built of."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def _without_credentials(url: object) -> object:
    if isinstance(url, str) and "@" in url:
        raise ValueError("expected a URL without user and password: settings are shown, and kept in files of the run")
    return url


OpenUrl = Annotated[str, BeforeValidator(_without_credentials)]
"""A URL that anybody may read. Refused before anything else looks at it, as other refusals show what came."""


_LOOKED_AT = "looked_at"
LOOKED_AT: Mapping[str, bool] = {_LOOKED_AT: True}
"""The context in which settings are validated that nothing is started with."""


def looked_at(info: ValidationInfo) -> bool:
    """Whether nothing is started with these settings: then only what could not be read, or would be shown, is refused.
    A run that began before something was refused is still one to report on."""
    return bool((info.context or {}).get(_LOOKED_AT))


class Section(BaseModel):
    """Base of all sections: immutable; an unknown key is an error, and so is a number that is none (inf, nan) and a
    text without a character. `none` unsets a setting that may be unset: TOML has no word for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_min_length=1)

    @field_validator("*", mode="before")
    @classmethod
    def _unset(cls, value: object, info: ValidationInfo) -> object:
        unset = value == "none" and info.field_name is not None and cls.model_fields[info.field_name].default is None
        return None if unset else value
