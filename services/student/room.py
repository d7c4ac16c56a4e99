"""How much work one batch takes. Pure.

The engine runs a static batch: what is in it runs to its end, nothing joins it. So room is decided before it:
- the first job is always taken, however large (the engine runs more sequences than it has slots in turns);
- further jobs of the lower kinds are taken while they fit into the slots;
- feedback has room for one more job beyond the slots. The peer waits for feedback while this student's own
  rollouts fill every slot, so a feedback job that comes while a batch is filled, or between two groups of it,
  never waits for a later batch. Slots held empty for it would only make every batch smaller: here nothing could
  move into them while the batch runs.

Where jobs join those that run (continuous.py) the same rule holds at every moment: full slots leave room for feedback.
"""

from collections.abc import Sequence

from shared.contracts.jobs import JOB_PRIORITY, Job, JobKind


class Room:
    """Decides by the sequences of jobs; how large the next job of a kind is, is guessed from the last one seen."""

    def __init__(self, slots: int, expected: dict[JobKind, int]) -> None:
        self.slots = slots
        self._expected = dict(expected)

    def seen(self, job: Job) -> None:
        self._expected[job.kind] = job.sequences

    def fits(self, kind: JobKind, held: Sequence[Job]) -> bool:
        """Whether one more job of `kind` belongs into the batch that `held` makes up."""
        if not held:
            return True
        size = self._expected[kind]
        extra = size if kind is JobKind.FEEDBACK else 0
        return used(held) + size <= self.slots + extra

    def free(self, held: Sequence[Job]) -> int:
        return max(0, self.slots - used(held))


def used(held: Sequence[Job]) -> int:
    return sum(job.sequences for job in held)


def most_urgent(held: Sequence[Job]) -> str:
    """The version whose group runs next: that of the most urgent kind, the first taken among equals."""
    return min(held, key=lambda job: JOB_PRIORITY.index(job.kind)).version
