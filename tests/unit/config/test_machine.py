"""What settings of the machine mean."""

import pytest

from shared.config.loading import load_settings


@pytest.mark.parametrize(
    ("override", "on_cpu", "on_gpu"),
    [("auto", False, True), ("true", True, True), ("false", False, False)],
)
def test_what_is_recomputed(override: str, on_cpu: bool, on_gpu: bool) -> None:
    section = load_settings(preset="smoke", overrides=[f"trainer.recompute={override}"], environ={}).trainer
    assert (section.recomputes("cpu"), section.recomputes("cuda")) == (on_cpu, on_gpu)
