"""What is set before anything is loaded, so that a step that is made again comes out the same."""

import os
from collections.abc import Iterator

import pytest
import torch

from services.trainer.device import set_up
from shared.config.loading import load_settings

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setenv(CUBLAS, "")  # so that what is set here is taken back
    monkeypatch.delenv(CUBLAS)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("device", "chosen", "repeats"),
    [("cpu", "auto", False), ("cpu", "true", True), ("cuda", "auto", True), ("cuda", "false", False)],
)
def test_algorithms_that_repeat_are_chosen_on_a_gpu_or_where_asked_for(device: str, chosen: str, repeats: bool) -> None:
    overrides = [f"trainer.deterministic={chosen}", "resources.threads=2"]
    set_up(load_settings(preset="smoke", overrides=overrides, environ={}), device)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() == repeats
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ.get(CUBLAS) == (":4096:8" if repeats else None)


@pytest.mark.parametrize(
    ("chosen", "device", "cores", "threads"),
    [
        ("auto", "cpu", 64, 1),
        ("auto", "cuda", 64, 8),
        ("auto", "cuda", 16, 4),
        ("auto", "cuda", 2, 1),
        ("3", "cpu", 64, 3),
        ("3", "cuda", 2, 3),
    ],
)
def test_threads_are_more_than_one_beside_a_gpu_alone(chosen: str, device: str, cores: int, threads: int) -> None:
    settings = load_settings(preset="smoke", overrides=[f"resources.threads={chosen}"], environ={})
    assert settings.threads_on(device, cores) == threads


def test_what_somebody_chose_for_cublas_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    set_up(load_settings(preset="smoke", environ={}), "cuda")
    assert os.environ[CUBLAS] == ":16:8"
