"""Which published versions of a run stay on disk."""

from pydantic import Field, field_validator

from shared.config.section import Section


class RetentionSection(Section):
    """Versions that keep their tensors; the others keep their manifest, and a replay makes them again."""

    keep_last: int = Field(
        default=0,
        ge=0,
        description="Newest versions of each student that stay, at least 2; 0: all. The live version, tutors and the "
        "version with the best validation score always stay.",
    )
    keep_every: int = Field(default=0, ge=0, description="Beside them every version whose step this divides; 0: none.")

    @field_validator("keep_last")
    @classmethod
    def _room_for_who_lags(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0 (all) or at least 2: a replica may still serve the version before the newest")
        return value
