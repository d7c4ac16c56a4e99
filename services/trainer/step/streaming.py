"""A step whose groups come one by one: the gradient of each is added as it comes.

What always holds:
- it is the step that `train_step` makes of the same rows, up to the order in which gradients are summed: a mini-batch
  has all its groups before its update, and what its gradient is divided by is counted then;
- the same groups in the same order give the same weights, bit for bit, however long they take to come.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from services.trainer.step.step import Step, denominator_of
from services.trainer.step.trees import Row
from shared.config.baselines import POLICY_GRADIENTS
from shared.contracts.batches import mini_batch_of
from shared.contracts.weights import StepMetrics
from shared.errors import StorageError


class StreamedStep:
    """groups: how many there will be. They are added `in_turn`."""

    def __init__(self, step: Step, groups: int) -> None:
        self.step = step
        self._groups = groups
        self._policy_gradient = step.settings.method in POLICY_GRADIENTS
        self._open = 0
        self._missing = Counter(map(self._mini_batch, range(groups)))
        self._rows: list[Row] = []
        self._later: list[Sequence[Row]] = []

    def in_turn(self, positions: Iterable[int]) -> list[int]:
        """Groups in the order in which they came, by their positions: mini-batch by mini-batch."""
        return sorted(positions, key=self._mini_batch)

    def add(self, rows: Sequence[Row]) -> None:
        """The rows of one group, whose number is its position in the batch.

        Raises NonFiniteError as `Step.update`, StorageError where it does not come `in_turn`.
        """
        if self._policy_gradient and self._mini_batch(rows[0].group) > 0:
            # A ratio is to the student as the step began: no update before all groups were seen by it.
            self.step.ask_old_policy([rows])
            self._later.append(rows)
        else:
            self._add(rows)

    def finish(self) -> StepMetrics:
        """After the last group. Raises NonFiniteError as `Step.update`, StorageError where one is missing."""
        for rows in self._later:
            self._add(rows)
        self._update()
        if self._missing.total():
            raise StorageError(f"expected {self._groups} groups, {self._missing.total()} of them did not come")
        return self.step.metrics()

    def _add(self, rows: Sequence[Row]) -> None:
        mini_batch = self._mini_batch(rows[0].group)
        if mini_batch != self._open:
            if self._missing[self._open] or mini_batch < self._open:
                raise StorageError(
                    f"expected a group of mini-batch {self._open + 1}, got position {rows[0].group} of {self._groups}, "
                    f"which is of mini-batch {mini_batch + 1}"
                )
            self._update()
            self._open = mini_batch
        self._missing[mini_batch] -= 1
        self._rows += rows
        self.step.add(rows)

    def _update(self) -> None:
        self.step.update(1.0 / denominator_of(self._rows, self.step.settings))
        self._rows = []

    def _mini_batch(self, position: int) -> int:
        return mini_batch_of(position, self._groups, self.step.settings.optimizer.mini_batches)
