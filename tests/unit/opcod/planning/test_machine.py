"""What is left to the plan, as a run on this machine finds it: in a file of the run, for its services."""

from pathlib import Path

import pytest

from opcod.planning.machine import in_words, plan_machine, write_plan
from opcod.prepare.run_directory import create_run, stored_settings
from shared.config.loading import PLANNED_FILE, load_settings, settings_of
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError
from tests.unit.modeling.tiny_model import write_tiny_model

VLLM = ("students.a.engine=vllm", "students.b.engine=vllm")
MIB = 1 << 20


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=overrides, environ={})


class Machine:
    """One with GPUs of so many MiB each, and the directory of a run that has begun there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory, self._monkeypatch = directory, monkeypatch
        self.paths = Paths(runs_dir=directory, run="r1", cache_dir=directory / "cache")
        model = write_tiny_model(directory / "model")
        self.models = {"a": model, "b": model}

    def with_gpus(self, *sizes_mib: int | str) -> None:
        program = self._directory / "nvidia-smi"
        rows = "; ".join(f"echo '{index}, GPU-{index}, {size}'" for index, size in enumerate(sizes_mib))
        program.write_text(f"#!/bin/sh\n{rows}\n")
        program.chmod(0o755)
        self._monkeypatch.setenv("PATH", str(self._directory))
        self._monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(sizes_mib)))))

    def begun(self, *overrides: str) -> RunSettings:
        chosen = settings(*overrides)
        create_run(self.paths, chosen)
        return chosen


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_without_gpus_nothing_is_planned_and_nothing_is_written(machine: Machine) -> None:
    machine.with_gpus()
    chosen = machine.begun()
    assert write_plan(machine.paths, chosen, machine.models).settings() == {}
    assert not (machine.paths.run_dir / PLANNED_FILE).exists()
    assert settings_of(machine.paths.run_dir) == chosen
    assert chosen.optimizer.micro_batch_tokens == "auto" and chosen.optimizer.pass_tokens == 1024


@pytest.mark.model
def test_services_go_by_the_plan_and_the_run_by_what_it_was_begun_with(machine: Machine) -> None:
    machine.with_gpus(24000, 24000)
    chosen = machine.begun(*VLLM, "students.b.vllm.gpu_memory_utilization=0.5")
    plan = write_plan(machine.paths, chosen, machine.models)
    served = settings_of(machine.paths.run_dir)
    assert served.optimizer.micro_batch_tokens == plan.pass_tokens == served.optimizer.pass_tokens
    assert served.students["a"].vllm.gpu_memory_utilization == plan.servers["a"].gpu_memory_utilization
    assert served.students["a"].vllm.kv_cache_memory_bytes == plan.servers["a"].kv_cache_memory_bytes
    assert served.students["b"].vllm.gpu_memory_utilization == 0.5
    assert served.students["b"].vllm.kv_cache_memory_bytes is None
    assert served.students["a"].vllm.max_model_len == 256, "the model has no more"
    assert stored_settings(machine.paths) == chosen, "so that it can be resumed on another machine"
    assert in_words(plan.cards[0]).startswith("GPU 0, 23.4 GiB: student-a ")


@pytest.mark.model
def test_on_another_machine_it_is_planned_anew_but_for_the_length_of_passes(machine: Machine) -> None:
    machine.with_gpus(24000, 24000)
    chosen = machine.begun(*VLLM)
    first = write_plan(machine.paths, chosen, machine.models)
    file = machine.paths.run_dir / PLANNED_FILE
    file.write_text(file.read_text().replace(f"micro_batch_tokens = {first.pass_tokens}", "micro_batch_tokens = 2048"))
    machine.with_gpus(48000, 48000)
    again = write_plan(machine.paths, chosen, machine.models)
    assert again.pass_tokens == 2048
    assert again.cards[0].bytes == 48000 * MIB
    served = write_plan(machine.paths, chosen, machine.models, "up")
    assert not any(need.service.startswith("trainer") for card in served.cards for need in card.needs)
    assert settings_of(machine.paths.run_dir).optimizer.pass_tokens == 2048, "it may go on to train"
    machine.with_gpus()
    write_plan(machine.paths, chosen, machine.models)
    assert not file.exists()


@pytest.mark.model
def test_cards_that_are_too_small_are_refused_all_at_once(machine: Machine) -> None:
    machine.with_gpus(1000, 1000)
    with pytest.raises(ConfigError, match=r"does not suffice:\n  GPU 0 has 1\.0 GiB.*\n  GPU 1 has 1\.0 GiB"):
        plan_machine(settings(*VLLM), machine.models)


@pytest.mark.model
def test_where_the_memory_is_not_told_a_server_has_a_card_of_its_own_or_a_share_that_is_set(machine: Machine) -> None:
    machine.with_gpus("[N/A]", "[N/A]")
    with pytest.raises(ConfigError, match=r"student-a shares a GPU, and .* which nvidia-smi does not tell: set it"):
        plan_machine(settings(*VLLM), machine.models)
    shares = [f"students.{name}.vllm.gpu_memory_utilization=0.4" for name in "ab"]
    assert plan_machine(settings(*VLLM, *shares), machine.models).settings() == {}
    machine.with_gpus(*["[N/A]"] * 4)
    assert plan_machine(settings(*VLLM), machine.models).settings() == {}


@pytest.mark.model
def test_a_server_that_others_start_is_told_the_runs_length(machine: Machine) -> None:
    machine.with_gpus(1000)
    beside = [f"students.{name}.vllm.url=unix:/data/{name}.sock" for name in "ab"]
    chosen = machine.begun(*VLLM, *beside, "students.b.vllm.max_model_len=100")
    write_plan(machine.paths, chosen, machine.models, "prepare")
    served = settings_of(machine.paths.run_dir)
    assert served.students["a"].vllm.max_model_len == 256
    assert served.students["b"].vllm.max_model_len == 100
    assert served.optimizer.micro_batch_tokens == "auto", "who shares the one GPU that is seen from here is not known"


@pytest.mark.model
def test_one_student_alone_is_planned_for_without_the_other(machine: Machine) -> None:
    machine.with_gpus(24000)
    plan = plan_machine(settings(*VLLM), {"a": machine.models["a"]})
    assert {need.service for card in plan.cards for need in card.needs} == {"student-a", "trainer-a"}
