"""A vLLM engine out of a student's settings: the server's command, its place to listen, and how to reach it.

What always holds: a server of ours listens on a unix socket in a fresh directory of this user's, new in each life, so
that nothing of a life before can answer in its place.
"""

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import AutoConfig

from services.student.config import StudentConfig, VllmEnvironment
from services.student.engines.vllm.adapters import AdapterWeights
from services.student.engines.vllm.capabilities import ADAPTERS, FULL
from services.student.engines.vllm.client import Client
from services.student.engines.vllm.command import Model, arguments, environment, guarded
from services.student.engines.vllm.engine import VllmEngine
from services.student.engines.vllm.full import FullWeights
from services.student.engines.vllm.health import Bounds
from services.student.engines.vllm.installation import find_installation
from services.student.engines.vllm.process import ServerProcess
from services.student.engines.vllm.server import Server
from shared.clock import SystemClock
from shared.contracts.ids import seed_of
from shared.modeling.loading import load_tokenizer

LOG_LINES = 25

Begin = Callable[[], tuple[Client, ServerProcess | None]]


def build_vllm_engine(config: StudentConfig) -> VllmEngine:
    """Started, and answering. Raises ConfigError, ModelError, or UnavailableError if it does not answer in time."""
    section, model_dir = config.section.vllm, config.prepared_model().directory
    log_file = config.run_dir / "logs" / f"vllm-{config.student}-{config.replica}.log"
    begin = _found(config) if section.url is not None else _started(config, model_dir, log_file)
    bounds = Bounds(section.hang_timeout_s, section.start_timeout_s, section.max_restarts)
    full = config.settings.run.weights == "full"
    server = Server(begin, FULL if full else ADAPTERS, bounds, SystemClock(), lambda: log_tail(log_file))
    return VllmEngine(
        server,
        FullWeights(server, model_dir, config.section.dtype) if full else AdapterWeights(model_dir),
        model_dir,
        load_tokenizer(model_dir, config.section.chat_template),
        int(AutoConfig.from_pretrained(model_dir, local_files_only=True).vocab_size),
        config.section.slots,
    )


def _found(config: StudentConfig) -> Begin:
    url, key = config.section.vllm.url, VllmEnvironment().key
    assert url is not None
    return lambda: (Client(url, key.get_secret_value() if key else None), None)


def _started(config: StudentConfig, model_dir: Path, log_file: Path) -> Begin:
    section, settings = config.section.vllm, config.settings
    installation = find_installation(section)
    model = Model(model_dir, config.section.dtype, settings.lora.rank if settings.run.weights == "lora" else None)
    seed = seed_of(settings.run.seed, config.student, "vllm")

    def begin() -> tuple[Client, ServerProcess]:
        socket = Path(tempfile.mkdtemp(prefix="opcod-vllm-")) / "socket"
        key = secrets.token_urlsafe(24)
        command = arguments(installation, section, model, socket=socket, slots=config.section.slots, seed=seed)
        variables = environment(
            installation, section, model, key=key, threads=settings.resources.threads, ours=os.environ
        )
        guards = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        under_guard = guarded(command, os.getpid())
        process = ServerProcess(under_guard, {**variables, **guards}, log_file, scratch=socket.parent)
        return Client(f"unix:{socket}", key), process

    return begin


def log_tail(log_file: Path) -> str:
    """The last lines of a server's log, or why there are none."""
    if not log_file.exists():
        return "(no log: it runs elsewhere)"
    try:
        return "\n".join(log_file.read_text(errors="replace").splitlines()[-LOG_LINES:])
    except OSError as error:
        return f"(no log: {error})"
