"""Which published versions of a run stay on disk."""

from pydantic import Field

from shared.config.section import Section


class RetentionSection(Section):
    """Versions that keep their tensors; the others keep their manifest, and a replay makes them again."""

    keep_last: int = Field(
        default=0,
        ge=0,
        description="Newest versions of each student that stay; 0: all of them. The live version, tutors and the "
        "version with the best validation score always stay.",
    )
    keep_every: int = Field(default=0, ge=0, description="Beside them every version whose step this divides; 0: none.")
