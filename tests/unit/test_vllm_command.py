"""How a vLLM server is started, and which one is not."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.student.engines.vllm.wire import ADAPTERS, FULL, Description, Needs, require
from shared.config.vllm import VllmSection
from shared.errors import ConfigError
from shared.vllm import Installation, Model, arguments, environment, find_installation, largest_rank, supported

GPU = Installation(Path("/vllm/bin/python"), "0.33.0", on_cpu=False)
CPU = Installation(Path("/vllm/bin/python"), "0.32.0", on_cpu=True)
MODEL = Model(Path("/models/m"), "bfloat16", rank=20)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def started(installation: Installation, model: Model = MODEL, **settings: object) -> list[str]:
    section = VllmSection.model_validate(settings)
    return arguments(installation, section, model, socket=Path("/s/socket"), slots=64, seed=5)


def test_the_settings_reach_the_command_line() -> None:
    command = started(
        GPU,
        tensor_parallel_size=2,
        data_parallel_size=3,
        gpu_memory_utilization=0.5,
        kv_cache_memory_bytes=3_000_000_000,
        max_model_len=4096,
        max_loras=5,
        arguments=["--enforce-eager"],
    )
    assert command[:3] == ["/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    expected = {
        "--model": "/models/m",
        "--uds": "/s/socket",
        "--tensor-parallel-size": "2",
        "--data-parallel-size": "3",
        "--api-server-count": "1",
        "--gpu-memory-utilization": "0.5",
        "--kv-cache-memory-bytes": "3000000000",
        "--max-model-len": "4096",
        "--max-loras": "5",
        "--max-lora-rank": "32",
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
    }
    assert {name: option(command, name) for name in expected} == expected
    assert int(option(command, "--max-num-seqs")) > 64
    assert command[-1] == "--enforce-eager"
    assert not {"--host", "--port", "--api-key"} & set(command)


def test_a_server_that_is_to_sleep_is_started_so() -> None:
    sleeping = replace(MODEL, sleeps=True)
    assert "--enable-sleep-mode" in started(GPU, sleeping) and "--enable-sleep-mode" not in started(GPU)
    told, others = (
        environment(GPU, VllmSection(), each, key="k", threads=1, ours={"VLLM_SERVER_DEV_MODE": "1"})
        for each in (sleeping, MODEL)
    )
    assert (told["VLLM_SERVER_DEV_MODE"], told["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]) == ("1", "1")
    assert "VLLM_SERVER_DEV_MODE" not in others


def test_a_socket_whose_path_is_too_long_is_refused_by_its_name() -> None:
    longest = Path("/" + "s" * 106)
    arguments(GPU, VllmSection(), MODEL, socket=longest, slots=1, seed=5)
    too_long = Path(f"{longest}s")
    with pytest.raises(ConfigError, match=f"at most 107 bytes for a unix socket, got 108: {too_long}; set TMPDIR"):
        arguments(GPU, VllmSection(), MODEL, socket=too_long, slots=1, seed=5)
    with pytest.raises(ValidationError, match="at most 107 bytes"):
        VllmSection(url=f"unix:{too_long}")


def test_without_a_gpu_nothing_is_said_of_its_memory_and_prompts_stay_whole() -> None:
    sized = started(CPU, gpu_memory_utilization=0.5, kv_cache_memory_bytes=1)
    assert not {"--gpu-memory-utilization", "--kv-cache-memory-bytes"} & set(sized)
    assert "--no-enable-chunked-prefill" in started(CPU) and "--no-enable-chunked-prefill" not in started(GPU)
    assert not {"--max-model-len", "--api-server-count"} & set(started(CPU))


def test_what_is_left_to_a_plan_that_was_not_made_is_left_to_the_server() -> None:
    memory = {"--gpu-memory-utilization", "--kv-cache-memory-bytes", "--max-model-len"}
    assert VllmSection().gpu_memory_utilization == "auto"
    assert not memory & set(started(GPU))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--max-model-len=4096", "no --max-model-len: .* set students.<name>.vllm.max_model_len"),
        ("--gpu_memory_utilization", "set students.<name>.vllm.gpu_memory_utilization"),
        ("-tp", "set students.<name>.vllm.tensor_parallel_size"),
        ("--logprobs-mod", "log-probs are to be those of the drawing"),
        ("--no-enable-lora", "it follows from run.weights"),
        ("--api_key=sEcReT", "no --api_key: a command line can be read by every user"),
        ("--hf-tok", "can be read by every user"),
        ("--max-num-batched-tokens 4096", "name and its value as two arguments, got --max-num-batched-tokens with"),
    ],
)
def test_an_argument_that_settings_decide_is_refused_however_vllm_takes_it(argument: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VllmSection(arguments=(argument, "4096"))


def test_other_arguments_are_left_to_who_gives_them() -> None:
    given = ("--enforce-eager", "--max-num-batched-tokens", "4096", '--hf-overrides={"a b": 1}', "-O3", "--x")
    assert VllmSection(arguments=given).arguments == given


def test_its_environment_is_its_own() -> None:
    ours = {"PATH": "/bin", "OPCOD_KEY_FILE": "/key", "PYTHONPATH": "/x", "CUDA_VISIBLE_DEVICES": "3"}
    ours |= {"NCCL_SOCKET_IFNAME": "eth1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_MODEL_REDIRECT_PATH": "/other"}
    ours |= {"VLLM_API_KEY": "theirs", "HF_TOKEN": "hf_x", "TORCH_HUB_TOKEN": "x", "NCCL_SECRET": "x", "HOSTNAME": "h"}
    section = VllmSection(environment={"VLLM_CPU_KVCACHE_SPACE": "4"})
    found = environment(CPU, section, MODEL, key="secret", threads=2, ours=ours)
    assert (found["CUDA_VISIBLE_DEVICES"], found["NCCL_SOCKET_IFNAME"]) == ("3", "eth1")
    assert found["VLLM_API_KEY"] == "secret"
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_KVCACHE_SPACE"]) == ("2", "4")
    assert not {"OPCOD_KEY_FILE", "PYTHONPATH", "VLLM_SERVER_DEV_MODE", "VLLM_MODEL_REDIRECT_PATH"} & found.keys()
    assert not {"HF_TOKEN", "TORCH_HUB_TOKEN", "NCCL_SECRET", "HOSTNAME"} & found.keys()
    assert "OMP_NUM_THREADS" not in environment(GPU, section, MODEL, key="secret", threads=2, ours=ours)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "CUDA_HOME", "CUDA_DEVICE_ORDER"),
        *("NCCL_IB_HCA", "GLOO_SOCKET_IFNAME", "VLLM_HOST_IP", "VLLM_CACHE_ROOT", "TORCH_NCCL_ASYNC_ERROR_HANDLING"),
        *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "CC", "CXX"),
    ],
)
def test_what_tells_a_server_its_gpus_network_and_caches_reaches_it(name: str) -> None:
    found = environment(GPU, VllmSection(), MODEL, key="secret", threads=2, ours={name: "set"})
    assert found[name] == "set"


def test_our_own_settings_of_the_server_win_over_the_surroundings() -> None:
    section = VllmSection(environment={"VLLM_HOST_IP": "10.0.0.2"})
    ours = {"VLLM_HOST_IP": "10.0.0.1", "VLLM_NO_USAGE_STATS": "0"}
    found = environment(GPU, section, MODEL, key="secret", threads=2, ours=ours)
    assert (found["VLLM_HOST_IP"], found["VLLM_NO_USAGE_STATS"]) == ("10.0.0.2", "1")


@pytest.mark.parametrize(("rank", "size"), [(1, 8), (8, 8), (64, 64), (65, 128)])
def test_the_rank_is_the_next_that_the_server_takes(rank: int, size: int) -> None:
    assert largest_rank(rank) == size


def test_a_rank_that_it_does_not_take_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"lora.rank: vLLM takes at most 512, got 513"):
        largest_rank(513)


def test_an_environment_without_vllm_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none; `make vllm-cpu` makes one"):
        find_installation(VllmSection(python=str(tmp_path / "python")))
    with pytest.raises(ConfigError, match="expected vllm or vllm-cpu in the environment"):
        find_installation(VllmSection(python=sys.executable))


def test_the_build_for_cpus_is_refused_where_a_gpu_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho vllm-cpu 0.32.0\n")
    python.chmod(0o700)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_installation(VllmSection(python=str(python))) == replace(CPU, python=python)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match="as CUDA_VISIBLE_DEVICES=3 gives one, found the build for CPUs; `make vllm`"):
        find_installation(VllmSection(python=str(python)))


@pytest.mark.parametrize("version", ["0.31.9", "0.9.2", "dev", ""])
def test_a_release_that_is_too_old_is_named(version: str) -> None:
    with pytest.raises(ConfigError, match=f"expected vLLM 0.32 or newer, found {version}"):
        supported(version)


@pytest.mark.parametrize(
    ("weights", "switches", "variable"),
    [
        (MODEL, {"--enable-lora", "--max-loras", "--max-lora-rank"}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        (Model(Path("/models/m"), "bfloat16", rank=None), set(), "VLLM_SERVER_DEV_MODE"),
    ],
)
def test_a_server_can_only_do_what_its_versions_need(weights: Model, switches: set[str], variable: str) -> None:
    assert {part for part in started(GPU, weights) if "lora" in part} == switches
    found = environment(GPU, VllmSection(), weights, key="secret", threads=2, ours={})
    assert found.keys() & {"VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE"} == {variable}


def description(needs: Needs, lacking: str = "") -> Description:
    fields: dict[str, object] = {name: {} for name in needs.fields if name != lacking}
    schema = {"CompletionRequest": {"properties": fields}}
    paths: dict[str, object] = {name: {} for name in needs.routes if name != lacking}
    return Description.model_validate({"paths": paths, "components": {"schemas": schema}})


@pytest.mark.parametrize(
    ("needs", "lacking", "said"),
    [
        (ADAPTERS, "/v1/unload_lora_adapter", r"lacks /v1/unload_lora_adapter; it needs --enable-lora"),
        (ADAPTERS, "logprob_token_ids", "lacks `logprob_token_ids` of a completion"),
        (FULL, "/collective_rpc", "lacks /collective_rpc; it needs VLLM_SERVER_DEV_MODE=1"),
        (FULL, "cache_salt", "lacks `cache_salt` of a completion"),
    ],
)
def test_what_a_server_lacks_is_named(needs: Needs, lacking: str, said: str) -> None:
    assert require("0.33.0", description(needs), needs) == "0.33.0"
    with pytest.raises(ConfigError, match=said):
        require("0.33.0", description(needs, lacking), needs)
    with pytest.raises(ConfigError, match="lacks /v1/completions, "):
        require("0.33.0", Description(), needs)


@pytest.mark.parametrize("version", ["0.3", "none", "", "٠.٣٢", "1e9.0", "0.99999", "9" * 5000, "0." + "9" * 5000])
def test_a_version_that_is_none_is_as_good_as_too_old(version: str) -> None:
    with pytest.raises(ConfigError, match=r"expected vLLM 0\.32 or newer") as refused:
        supported(version)
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize(
    "url",
    ["http://:80", "http://host:99999", "http://host:0", "http://[::1", "http://h\0st", "http://h?a=1"],
)
def test_an_address_that_nobody_can_be_asked_at_is_refused(url: str) -> None:
    assert VllmSection(url="http://[::1]:8000").url == "http://[::1]:8000"
    with pytest.raises(ValidationError, match=r"http://127\.0\.0\.1:8000"):
        VllmSection(url=url)
