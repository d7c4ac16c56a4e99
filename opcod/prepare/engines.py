"""How a vLLM server that runs beside its student, in a container of its own, is to be started.

Its container has vLLM and nothing of ours, so `opcod prepare` writes the command line and the environment as files, the
same ones with which a student would start the server itself. `k8s/components/gpu/serve.sh` reads them.
"""

from pathlib import Path

from shared.config.settings import Paths, RunSettings
from shared.contracts.ids import seed_of
from shared.contracts.models import prepared_model
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.vllm.command import Model, arguments, environment
from shared.vllm.installation import Installation

SOCKET_URL = "unix:"
ANYWHERE = Installation(python=Path("python3"), version="", on_cpu=False)


def write_engines(paths: Paths, settings: RunSettings) -> None:
    """`engines/<student>.arguments` and `.environment`, a line each, for students whose vLLM has a socket as its URL.

    Raises ConfigError if such a student's model is not prepared, or a line would hold another.
    """
    for name, student in sorted(settings.students.items()):
        url = student.vllm.url or ""
        if student.engine != "vllm" or not url.startswith(SOCKET_URL):
            continue
        model = Model(prepared_model(paths.run_dir, name).path, student.dtype, settings.lora.rank)
        socket, seed = Path(url.removeprefix(SOCKET_URL)), seed_of(settings.run.seed, name, "vllm")
        command = arguments(ANYWHERE, student.vllm, model, socket=socket, slots=student.slots, seed=seed)
        told = environment(ANYWHERE, student.vllm, model, key="", threads=settings.resources.threads, ours={})
        variables = [f"{variable}={value}" for variable, value in told.items() if variable != "VLLM_API_KEY"]
        _write(paths.run_dir / "engines" / f"{name}.arguments", command[1:])
        _write(paths.run_dir / "engines" / f"{name}.environment", variables)


def _write(file: Path, lines: list[str]) -> None:
    if any("\n" in line for line in lines):
        raise ConfigError(f"{file.name}: expected arguments of one line each, got {lines!r}")
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, "".join(f"{line}\n" for line in lines).encode())
