"""A vLLM engine out of a student's settings: the server's command, its place to listen, and how to reach it.

What always holds: a server of ours listens on a unix socket in a fresh directory of this user's, new in each life, so
that nothing of a life before can answer in its place.
"""

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from services.student.config import StudentConfig, VllmEnvironment
from services.student.engines.vllm.client import VllmClient
from services.student.engines.vllm.engine import VllmEngine
from services.student.engines.vllm.full import FullWeights
from services.student.engines.vllm.guard import guarded
from services.student.engines.vllm.health import Bounds
from services.student.engines.vllm.process import ServerProcess
from services.student.engines.vllm.server import Server
from services.student.engines.vllm.untied import Untied
from services.student.engines.vllm.weights import AdapterWeights, Renamed, Weights
from services.student.engines.vllm.wire import ADAPTERS, FOUND_FULL, FULL, SLEEPING, Needs
from shared.clock import SystemClock
from shared.config.machine import cores_here
from shared.config.vllm import MAX_SOCKET_BYTES
from shared.contracts.ids import seed_of
from shared.contracts.models import ServedBy, served_by_file
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.modeling.checksums import weights_checksum
from shared.modeling.fitting import tied_names
from shared.modeling.loading import check_weights, load_skeleton, load_tokenizer, vocabulary_size
from shared.modeling.serving import require_served, served_modules
from shared.vllm import BASE, Model, arguments, environment, find_installation

LOG_LINES = 25

# Of a socket in a server's directory: our own, and those that vLLM names by a UUID.
_SOCKET_NAME_BYTES = len("/") + 36
_SCRATCH = "opcod-vllm-"
_SCRATCH_BYTES = len(_SCRATCH) + 8
_SHORT = "/tmp"

_SAYS_V2 = b"Using V2 Model Runner"
_SAYS_ANYTHING = b"INFO"

log = structlog.get_logger()

Begin = Callable[[], tuple[VllmClient, ServerProcess | None]]


def build_vllm_engine(config: StudentConfig) -> VllmEngine:
    """Started, and answering. Raises ConfigError, ModelError, or UnavailableError if it does not answer in time."""
    base = config.prepared_model()
    model_dir = base.path
    check_weights(model_dir)
    require_served(model_dir, "vllm", config.settings.run.weights)
    build = _with_full_weights if config.settings.run.weights == "full" else _with_adapters
    # Lives before this one are in it, too.
    log_file = _log_file(config)
    before = log_file.stat().st_size if log_file.exists() else 0
    server, weights = build(config, model_dir, weights_checksum(base))
    engine = VllmEngine(
        server,
        weights,
        model_dir,
        load_tokenizer(model_dir, config.section.chat_template),
        vocabulary_size(model_dir),
        config.section.slots,
    )
    try:
        _require_room(config, engine.context)
    except ConfigError:
        engine.close()
        raise
    _tell(config, ServedBy(version=engine.version, runner=model_runner(log_file, before), max_model_len=engine.context))
    return engine


def _require_room(config: StudentConfig, context: int) -> None:
    """Of a server that was found nobody has known before how long its sequences may be. Raises ConfigError."""
    settings = config.settings
    answers = {
        "rollout.max_tokens": settings.rollout.max_tokens,
        "evaluation.max_tokens": settings.evaluation.max_tokens,
    }
    if settings.gate_mode != "never":
        answers["feedback.max_tokens"] = settings.feedback.max_tokens
    name = max(answers, key=lambda each: answers[each])
    if answers[name] >= context:
        raise ConfigError(
            f"vLLM of student {config.student} takes sequences of {context} tokens, which {name} = {answers[name]} "
            "leaves no prompt in: give it more (students.<name>.vllm.max_model_len, --max-model-len of a server that "
            "you start), or lower that"
        )


def _tell(config: StudentConfig, served: ServedBy) -> None:
    """In the log, and in the run's directory."""
    log.info("vllm serves", **served.model_dump())
    file = served_by_file(config.environment.run_dir, config.student, config.environment.replica)
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, served.model_dump_json().encode())


def model_runner(log_file: Path, start: int) -> Literal["V1", "V2"] | None:
    """What the server says in its log from byte `start` on; None where it says nothing, or has its log elsewhere.

    vLLM chooses by model, features and whether there is Triton, or as VLLM_USE_V2_MODEL_RUNNER says.
    """
    if not log_file.exists():
        return None
    with log_file.open("rb") as file:
        file.seek(start)
        said = file.read()
    if _SAYS_V2 in said:
        return "V2"
    # It says so at the level INFO, which somebody may have turned off.
    return "V1" if _SAYS_ANYTHING in said else None


def _with_adapters(config: StudentConfig, model_dir: Path, checksum: str) -> tuple[Server, Weights]:
    sleeps = config.settings.resources.turns
    model = Model(model_dir, config.section.dtype, config.settings.lora.rank, sleeps)
    if sleeps and find_installation(config.section.vllm).on_cpu:
        raise ConfigError(
            f"resources.turns: the vLLM of student {config.student} is the build for CPUs, which cannot sleep while a "
            "trainer works; set resources.turns = false"
        )
    begin = _found(config) if config.section.vllm.url is not None else _started(config, model)
    served = served_modules(model_dir)
    plain = all(own == name for own, name in served.items())
    weights = AdapterWeights(model_dir, checksum, None if plain else Renamed(_own_directory(config), served))
    return _server(config, begin, SLEEPING if sleeps else ADAPTERS), weights


def _own_directory(config: StudentConfig) -> Path:
    """Of what is made for this replica's server alone."""
    return config.environment.run_dir / "engines" / f"{config.student}-{config.environment.replica}"


def _with_full_weights(config: StudentConfig, model_dir: Path, checksum: str) -> tuple[Server, Weights]:
    skeleton = load_skeleton(model_dir, config.section.dtype)
    tied = tied_names(skeleton)
    untied, served = None, model_dir
    found = config.section.vllm.url is not None
    if not found and tied and find_installation(config.section.vllm).on_cpu:
        untied = Untied(_own_directory(config), tied)
        served = untied.add(BASE, model_dir)
    if found:
        server = _server(config, _found(config), FOUND_FULL)
    else:
        server = _server(config, _started(config, Model(served, config.section.dtype, rank=None)), FULL)
    return server, FullWeights(server, model_dir, checksum, served, skeleton, untied)


def _server(config: StudentConfig, begin: Begin, needs: Needs) -> Server:
    section, log_file = config.section.vllm, _log_file(config)
    bounds = Bounds(section.hang_timeout_s, section.start_timeout_s, section.max_restarts)
    # One that somebody else started says how many it has.
    copies = None if section.url is not None else section.data_parallel_size
    return Server(begin, needs, bounds, SystemClock(), lambda: log_tail(log_file), copies)


def _log_file(config: StudentConfig) -> Path:
    return config.environment.run_dir / "logs" / f"vllm-{config.student}-{config.environment.replica}.log"


def _found(config: StudentConfig) -> Begin:
    url, key = config.section.vllm.url, VllmEnvironment().key
    # Whoever calls this has looked.
    assert url is not None
    return lambda: (VllmClient(url, key.get_secret_value() if key else None), None)


def _started(config: StudentConfig, model: Model) -> Begin:
    section, settings = config.section.vllm, config.settings
    installation = find_installation(section)
    seed = seed_of(settings.run.seed, config.student, "vllm")
    # Told to a server on a CPU alone.
    threads = settings.threads_on("cpu", cores_here())

    def begin() -> tuple[VllmClient, ServerProcess]:
        scratch = scratch_directory(tempfile.gettempdir())
        socket = scratch / "socket"
        key = secrets.token_urlsafe(24)
        command = arguments(installation, section, model, socket=socket, slots=config.section.slots, seed=seed)
        # Sockets between the server's own processes lie where ours does, unless somebody said where.
        ours = {"VLLM_RPC_BASE_PATH": str(scratch), **os.environ}
        variables = environment(installation, section, model, key=key, threads=threads, ours=ours)
        # The guard runs on our interpreter and imports this package; it takes these out before the server starts.
        guards = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        under_guard = guarded(command, os.getpid())
        process = ServerProcess(under_guard, {**variables, **guards}, _log_file(config), scratch=scratch)
        return VllmClient(f"unix:{socket}", key), process

    return begin


def scratch_directory(usual: str) -> Path:
    """A new directory for this user alone (0700), in which paths of sockets are no longer than the system takes: below
    `usual`, else below /tmp.

    Not in the run's directory, nor below a TMPDIR as long as batch systems make: a unix socket's path has 107 bytes.
    """
    longest = len(os.fsencode(usual)) + len("/") + _SCRATCH_BYTES + _SOCKET_NAME_BYTES
    return Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=usual if longest <= MAX_SOCKET_BYTES else _SHORT))


def log_tail(log_file: Path) -> str:
    """The last lines of a server's log, or why there are none."""
    if not log_file.exists():
        return "(no log: it runs elsewhere)"
    try:
        return "\n".join(log_file.read_text(errors="replace").splitlines()[-LOG_LINES:])
    except OSError as error:
        return f"(no log: {error})"
