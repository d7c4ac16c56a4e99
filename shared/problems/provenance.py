"""Where the problems of a set came from, and which rows were left out: part of the manifest, not of the content."""

from shared.contracts.messages import Contract


class DroppedRow(Contract):
    """A training row that is not used, since it would give away a problem of another partition."""

    id: str
    partition: str
    same_as: str


class Provenance(Contract):
    """files: sha256 by path below the source. shared_stems: test problems that share their stem, though not their
    options, with a training problem.
    """

    source: str
    files: dict[str, str]
    dropped: tuple[DroppedRow, ...] = ()
    shared_stems: tuple[str, ...] = ()
