"""AdamW whose moments are kept on the host, for devices that have no room for them beside a step.

What always holds: the updates are those of AdamW, bit for bit: one parameter after the other is updated, and of that
one alone the moments are on its device meanwhile.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HostedAdamW(torch.optim.AdamW):
    """See `torch.optim.AdamW`. `state` has the moments, on the host, pinned where there is a GPU to read them."""

    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        try:
            for group in groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.param_groups = [{**group, "params": [parameter]}]
                        self._update(parameter)
        finally:
            self.param_groups = groups

    def take(self, parameter: nn.Parameter, moments: Mapping[str, Tensor]) -> None:
        """Its moments from now on, wherever they are."""
        self.state[parameter] = {name: _kept(each, parameter.device) for name, each in moments.items()}

    def _update(self, parameter: nn.Parameter) -> None:
        kept: dict[str, Any] = dict(self.state[parameter])
        for name, moment in kept.items():
            self.state[parameter][name] = moment.to(parameter.device)
        super().step()
        for name, moment in self.state[parameter].items():
            # Into the pinned memory that is there.
            kept[name] = kept[name].copy_(moment) if name in kept else _kept(moment, parameter.device)
        self.state[parameter] = kept


def _kept(moment: Tensor, device: torch.device) -> Tensor:
    """On the host. device: which will read it."""
    if device.type == "cpu":
        return moment.to("cpu")
    return torch.empty_like(moment, device="cpu", pin_memory=True).copy_(moment)
