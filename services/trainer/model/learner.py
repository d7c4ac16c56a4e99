"""Everything that training changes: the student's weights, its EMA teacher and the optimizer, as one state.

What always holds: `state` holds all there is. Nothing in a step draws a random number, so no generator belongs to
it, and a learner that loads a state goes on exactly as the one that saved it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from services.trainer.model.model import StudentModel
from services.trainer.model.offloading import HostedAdamW
from services.trainer.model.teacher import EmaTeacher
from services.trainer.ranks.group import Alone, Group, total_norm
from shared.config.training import OptimizerSection
from shared.obs.faults import fault_point

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

PhaseStart = Literal["reset", "carry"]


@dataclass(frozen=True)
class LearnerState:
    """published: what a version holds, by its names; teacher: by parameter name; optimizer: `<parameter>.<moment>`.

    exact: by parameter name, in fp32, what `published` is rounded from; empty where nothing is rounded. teacher: empty
    where none is kept. whole: whether there is more than what is published.
    """

    published: Mapping[str, Tensor]
    exact: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    phase_updates: int
    skipped_in_row: int
    whole: bool = True


def rate_share(settings: OptimizerSection, updates: int) -> float:
    """The share of the learning rate that the next update moves by, after `updates` of them in the phase."""
    warmup = max(1, settings.warmup_updates)
    # Never 0: the first update already moves by 1/warmup of the rate.
    if updates < warmup:
        return (updates + 1) / warmup
    if not settings.decay_updates:
        return 1.0
    return 1.0 - (1.0 - settings.decay_to) * min(1.0, (updates - warmup + 1) / settings.decay_updates)


def adamw(
    parameters: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    hosted: bool = False,
) -> torch.optim.AdamW:
    """AdamW over `parameters`, which are on one device. hosted: its moments are on the host."""
    # On a GPU torch's choice would hold one more fp32 copy of them all during an update; on a CPU it is left alone.
    fused = True if parameters[0].device.type == "cuda" else None
    kind = HostedAdamW if hosted else torch.optim.AdamW
    return kind(parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=fused)


class Learner:
    """The student in training, its teacher and its optimizer.

    phase_updates: updates made since the phase began, which warm-up counts. skipped_in_row: updates in a row that were
    not made because something was not finite.
    """

    def __init__(
        self,
        model: StudentModel,
        settings: OptimizerSection,
        teacher: EmaTeacher | None = None,
        group: Group | None = None,
    ) -> None:
        """teacher: an EmaTeacher if none is given. group: the ranks that train it together; one if none is given."""
        self.group = group or Alone()
        self.model = model
        self.teacher = teacher or EmaTeacher(model, settings.ema_rate)
        self.phase_updates = 0
        self.skipped_in_row = 0
        self._settings = settings
        self._optimizer = self._new_optimizer()

    def begin_phase(self, *, teacher: PhaseStart = "reset", optimizer: PhaseStart = "reset") -> None:
        """What is reset is as in a fresh process: the teacher a copy of the student, no moments and warm-up again."""
        if teacher == "reset":
            self.teacher.reset()
        if optimizer == "reset":
            self._optimizer = self._new_optimizer()
            self.phase_updates = 0

    def update(self, scale: float = 1.0) -> float | None:
        """Clip the gradients, `scale` times what was added up, and make one update; their norm, or None if it was not
        finite.

        Then nothing changes: no parameter, no moment, no teacher. Gradients are cleared either way.
        """
        norm = self._clip(scale)
        if not math.isfinite(norm):
            self.skip()
            return None
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * rate_share(self._settings, self.phase_updates)
        # The order counts: exact parameters, then the rounded ones that the model computes with, then the teacher.
        self._optimizer.step()
        fault_point("trainer.mid-optimizer")
        self.model.round()
        self._drop_gradients()
        self.teacher.follow()
        self.phase_updates += 1
        self.skipped_in_row = 0
        return norm

    def skip(self) -> None:
        """Count an update that was not made."""
        self._drop_gradients()
        self.skipped_in_row += 1

    def state(self, *, copy: bool = True, whole: bool = True) -> LearnerState:
        """copy: it does not change with the next update. whole: with more than what is published."""
        published = self.model.trained.tensors()
        exact = self.model.named_parameters if whole and self.model.rounds else {}
        return LearnerState(
            published={name: each.clone() for name, each in published.items()} if copy else published,
            exact={name: each.detach().to("cpu", copy=copy) for name, each in exact.items()},
            teacher=self.teacher.tensors(copy=copy) if whole else {},
            optimizer=self._moments(copy) if whole else {},
            phase_updates=self.phase_updates,
            skipped_in_row=self.skipped_in_row,
            whole=whole,
        )

    def move(self, device: str) -> None:
        """All that is kept between steps, to that device, as it is; gradients are dropped."""
        self._drop_gradients()
        self.model.move(device)
        self.teacher.move(device)
        if not isinstance(self._optimizer, HostedAdamW):
            for moments in self._optimizer.state.values():
                moments.update({name: tensor.to(device) for name, tensor in moments.items()})
        if device == "cpu" and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def restart(self) -> None:
        """Be as the run began. Raises ModelError where the student's own weights cannot be read."""
        self._drop_gradients()
        self.model.set_tensors(self.model.trained.start(), {})
        self.begin_phase()
        self.skipped_in_row = 0

    def load(self, state: LearnerState) -> None:
        """Raises ModelError or StorageError where the state is of another model."""
        self._drop_gradients()
        self.model.set_tensors(state.published, state.exact)
        self.teacher.load(state.teacher)
        # A new one: moments of parameters that the state has none for must not stay.
        self._optimizer = self._new_optimizer()
        for name, parameter in self.model.named_parameters.items():
            found = {m: state.optimizer[f"{name}.{m}"].clone() for m in _MOMENTS if f"{name}.{m}" in state.optimizer}
            if found and isinstance(self._optimizer, HostedAdamW):
                self._optimizer.take(parameter, found)
            elif found:
                self._optimizer.state[parameter] = {m: tensor.to(parameter.device) for m, tensor in found.items()}
        self.phase_updates = state.phase_updates
        self.skipped_in_row = state.skipped_in_row

    def _clip(self, scale: float) -> float:
        """The norm of the gradient of all ranks, before it is cut."""
        self.model.take_gradients()
        parameters, limit = self.model.parameters, self._settings.clip_norm
        if scale != 1.0:
            for each in parameters:
                if each.grad is not None:
                    each.grad.mul_(scale)
        if not self.model.sharded:
            # Every rank makes a pass, and so has a gradient of the same parameters.
            self.group.add_up([each.grad for each in parameters if each.grad is not None])
            return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm = total_norm(self.group, float(torch.nn.utils.get_total_norm(gradients)))
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm))
        return norm

    def _drop_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self.model.drop_gradients()

    def _moments(self, copy: bool) -> dict[str, Tensor]:
        return {
            f"{name}.{moment}": self._optimizer.state[parameter][moment].detach().to("cpu", copy=copy)
            for name, parameter in self.model.named_parameters.items()
            for moment in _MOMENTS
            if parameter in self._optimizer.state
        }

    def _new_optimizer(self) -> torch.optim.AdamW:
        settings = self._settings
        return adamw(
            self.model.parameters,
            learning_rate=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            hosted=settings.offload == "moments",
        )
