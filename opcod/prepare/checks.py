"""All that can be known to be wrong before a run begins, so that nothing is half-written. Raises ConfigError."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from opcod.installed import require_model_packages
from opcod.local.deployment import latest_run
from opcod.local.gpus import require_room, share_out
from opcod.local.host_memory import memory_here
from opcod.local.nodes import PORTS
from opcod.options import given, paths_for, settings_from
from opcod.planning.contexts import crowded, too_long
from opcod.planning.disk import existing, known_shapes, require_disk
from opcod.planning.host import memory_note, run_bytes
from opcod.planning.machine import Purpose, counting, plan_machine, started_shares
from opcod.planning.shapes import context_in, shapes_in, vllm_context
from opcod.planning.work import Count, Lengths, prompt_lengths, prompts_asked, refused_prompt
from opcod.prepare.models import as_made_here, base_model
from opcod.prepare.run_directory import create_run, kept_settings, new_run_name
from shared.bus.redis import RedisBus
from shared.config.environment import RUN_NAME
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import model_file, prepared_model
from shared.errors import ConfigError, PromptError
from shared.files.state import require_own_state
from shared.gpus import gpus_here
from shared.http.addresses import listen
from shared.problems.coverage import told_of
from shared.problems.evaluation import evaluated_problems
from shared.problems.examples import examples_for
from shared.problems.loading import load_problems
from shared.problems.problem import ProblemSet
from shared.problems.rejection import SAMPLES, own_problems, require_server_of_ours
from shared.vllm import find_installation

PRIVILEGED = frozenset({"opcod", "sdpo"})
"""Methods in which the self-teacher is shown what the student is not."""


def check_settings(
    paths: Paths,
    settings: RunSettings,
    purpose: Purpose = "run",
    *,
    takes_steps: bool = True,
    students: Sequence[str] | None = None,
) -> list[str]:
    """Name, problems, disk, ports, Redis, models and GPUs; returns what a run would lose by texts that are too long,
    and whether this machine's memory is too small for it. Raises UnavailableError if Redis does not answer.

    takes_steps: whether batches, versions and checkpoints will be written, for which the disk is to have room, too.
    students: whose models and engines are wanted, by default all.
    """
    wanted = settings.names if students is None else students
    # Models come last: one may have to be fetched, and nobody should wait for that to learn of a wrong port.
    check_name(paths.run)
    check_directory("--runs-dir", paths.runs_dir)
    check_directory("--cache-dir", paths.cache_dir)
    problems = load_problems(settings)
    evaluated_problems(settings, problems)
    _check_specialists(paths, settings, problems)
    known = {name: shape for name, shape in known_shapes(paths, settings).items() if name in wanted}
    require_disk(paths, settings, known, takes_steps=takes_steps)
    _check_ports(settings)
    _check_redis(paths, settings)
    check_engines(settings, purpose, wanted)
    models = _check_models(paths, settings, purpose, wanted)
    # Who serves a model alone asks it what users do, and none of a run's prompts.
    counts = {} if purpose == "up" else _counts_of(settings, models)
    _check_prompts(settings, problems, counts)
    notes, lengths = _check_lengths(settings, problems, models, counts) if takes_steps else ([], None)
    # Again: by now the sizes of all models are known that are not known by name.
    shapes = shapes_in(models)
    require_disk(paths, settings, shapes, takes_steps=takes_steps)
    if lengths is not None and purpose == "run":
        gpu = gpus_here() > 0
        note = memory_note(settings, run_bytes(settings, shapes, lengths, gpu=gpu), memory_here(), gpu=gpu)
        notes += [] if note is None else [note]
    return notes


def check_name(run: str) -> None:
    """Before its directory is made: it cannot lie elsewhere than among the runs. Raises ConfigError."""
    if not re.fullmatch(RUN_NAME, run):
        raise ConfigError(f"expected a run name of letters, digits, '.', '_' and '-' (at most 64), got {run!r}")


def _check_specialists(paths: Paths, settings: RunSettings, problems: ProblemSet) -> None:
    for name in settings.names:
        if settings.learns_from_itself(name):
            own_problems(settings, name, problems)
            # Whose answers are those that are kept, only the base model tells.
            if not model_file(paths.run_dir, name).exists() and not any((paths.cache_dir / SAMPLES).glob("*.jsonl")):
                require_server_of_ours(settings, name)
        elif settings.students[name].specialize:
            examples_for(settings, name)


def check_directory(option: str, directory: Path) -> None:
    """Whether files can be written there, whether it exists or not. Raises ConfigError."""
    if not can_be_written(directory):
        raise ConfigError(f"{option}: expected a directory that can be written to, {existing(directory)} is none")


def _check_ports(settings: RunSettings) -> None:
    ports = {
        "serving.broker_port": settings.serving.broker_port,
        "serving.inspector_port": settings.serving.inspector_port,
        **{
            f"students.{name}.port{f' + {replica}' if replica else ''}": student.port + replica
            for name, student in settings.students.items()
            for replica in range(student.started if student.port else 0)
        },
    }
    # Also where every port is a free one: a host that is not of this machine fails when all has been prepared.
    _check_port("serving.host", settings.serving.host, 0)
    chosen = [port for port in ports.values() if port]
    for name, port in ports.items():
        if port and chosen.count(port) > 1:
            raise ConfigError(f"{name}: port {port} is given to two services; choose another")
        if port >= PORTS:
            raise ConfigError(f"{name}: expected a port below {PORTS}, got {port}; choose a smaller first one")
        if port:
            _check_port(name, settings.serving.host, port)


def _check_port(name: str, host: str, port: int) -> None:
    try:
        # Free now is not free later, but most ports that are taken are taken for long.
        listen(host, port).close()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _check_redis(paths: Paths, settings: RunSettings) -> None:
    url = settings.bus.secret_url()
    if url is None:
        return
    bus = RedisBus(url, paths.run, deadline_s=settings.bus.deadline_s)
    try:
        bus.ping()
        begun = (paths.run_dir / "config.toml").exists()
        require_own_state(bus.load_state(), paths.run, paths.run_dir, begun=begun)
    finally:
        bus.close()


def check_engines(settings: RunSettings, purpose: Purpose = "run", students: Sequence[str] | None = None) -> None:
    """Whether vLLM is installed for whose server is started here, and GPUs suffice for what is. Raises ConfigError."""
    for student in (settings.students[name] for name in students or settings.names):
        if student.engine == "vllm" and student.vllm.url is None:
            find_installation(student.vllm)
    if purpose != "prepare":
        require_room(settings, started_shares(settings, purpose))
    elif any(student.specialize and student.engine != "scripted" for student in settings.students.values()):
        # Engines and trainers have GPUs of their own, which are not seen from here.
        available = gpus_here()
        share_out(as_made_here(settings, available, purpose), available)


def _check_models(paths: Paths, settings: RunSettings, purpose: Purpose, students: Sequence[str]) -> dict[str, Path]:
    """The directories of these students' models, looked at."""
    sections = {name: settings.students[name] for name in students if settings.students[name].engine != "scripted"}
    if sections:
        _check_device()
    models = {}
    for name, student in sections.items():
        models[name] = base_model(settings, name, paths)
        vocabulary = _checked_vocabulary(models[name], student.chat_template)
        _check_served(settings, name, models[name])
        most = vllm_context(models[name]) if student.engine == "vllm" else None
        if most is not None and (student.vllm.max_model_len or sys.maxsize) > most:
            raise ConfigError(
                f"students.{name}.vllm.max_model_len: expected at most {most}: a server that takes longer sequences of "
                "this model computes some with other rotary angles than the trainer does; set it, and max_tokens that "
                "fit, or choose another model"
            )
        top_k = settings.loss.top_k
        if top_k != "all" and top_k > vocabulary:
            raise ConfigError(
                f"loss.top_k: expected at most {vocabulary}, the vocabulary of student {name}, got {top_k}; "
                f"`all` takes all of it"
            )
    plan_machine(settings, models, purpose)
    return models


def _counts_of(settings: RunSettings, models: Mapping[str, Path]) -> dict[str, Count]:
    """How each student counts the tokens of a prompt."""
    if not models:  # torch takes seconds, and there is no tokenizer to ask
        return {}
    from shared.modeling.loading import load_tokenizer

    return {
        name: counting(load_tokenizer(directory, settings.students[name].chat_template))
        for name, directory in models.items()
    }


def _check_prompts(settings: RunSettings, problems: ProblemSet, counts: Mapping[str, Count]) -> None:
    """Or a kind of prompt would be refused by a chat template once much has been made."""
    for name, count in counts.items():
        try:
            for messages in prompts_asked(problems, settings):
                count(messages)
        except PromptError as error:
            raise ConfigError(refused_prompt(name, error)) from error


def _check_lengths(
    settings: RunSettings, problems: ProblemSet, models: Mapping[str, Path], counts: Mapping[str, Count]
) -> tuple[list[str], Lengths | None]:
    """Or the longest questions would fail in the middle of a run; returns what only the longest texts would, and the
    lengths of prompts as the first student counts them."""
    refused: list[str] = []
    notes: list[str] = []
    first: Lengths | None = None
    for name, count in counts.items():
        try:
            lengths = prompt_lengths(problems, settings, count)
        except PromptError as error:
            raise ConfigError(f"student {name}: {error}") from error
        first = first or lengths
        contexts = {name: context_in(models[name])}
        refused += too_long(settings, contexts, lengths)
        notes += crowded(settings, contexts, lengths)
    if refused:
        raise ConfigError("; ".join(refused))
    return notes, first


def _check_device() -> None:
    """Before hours of drawing answers, after which a trainer would find the same."""
    require_model_packages("a run")
    from shared.modeling.device import device_here

    device_here()


def _checked_vocabulary(model_dir: Path, chat_template: str | None) -> int:
    """How many ids a model has, whose files were seen to make one. Raises ModelError."""
    from shared.modeling.loading import check_model, load_tokenizer, vocabulary_size

    check_model(model_dir)
    load_tokenizer(model_dir, chat_template)
    return vocabulary_size(model_dir)


def _check_served(settings: RunSettings, student: str, model_dir: Path) -> None:
    """What would else be found in the middle of a run, or never. Raises ModelError."""
    from shared.modeling.chat import require_told_in_text
    from shared.modeling.loading import load_tokenizer
    from shared.modeling.serving import require_served
    from shared.modeling.thinking import require_thoughts_in_text

    section = settings.students[student]
    require_served(model_dir, section.engine, settings.run.weights, settings.adapts_from(student))
    if settings.learns_from_itself(student):
        tokenizer = load_tokenizer(model_dir, section.chat_template)
        require_told_in_text(tokenizer)
        require_thoughts_in_text(tokenizer)


def replica_notes(settings: RunSettings) -> list[str]:
    """Of students that have more replicas than are started here."""
    return [
        f"student {name}: one of {settings.students[name].replicas} replicas is started here, as its vLLM server is "
        "found by its URL; the others are to be where that URL is another server, as in pods (docs/engines.md#replicas)"
        for name in settings.names
        if settings.students[name].started < settings.students[name].replicas
    ]


def notes_before(paths: Paths, settings: RunSettings, students: Sequence[str] | None = None) -> list[str]:
    """What a run of checked settings would say of its problems and of these students, by default all, for what comes
    before it. Raises as `load_problems` and `thinking_notes`."""
    return [*told_of(load_problems(settings)), *thinking_notes(paths, settings, prepared=False, students=students)]


def thinking_notes(
    paths: Paths, settings: RunSettings, *, prepared: bool, students: Sequence[str] | None = None
) -> list[str]:
    """Of students, by default all, that think, though their teacher is to be shown the solution.

    prepared: their models are those that were prepared for this run, else those of the settings that are on this
    machine already. Raises ConfigError where packages are missing here, ModelError for a model that cannot be used.
    """
    shown = settings.run.method in PRIVILEGED
    wanted = settings.names if students is None else students
    names = [name for name in wanted if shown and settings.students[name].engine != "scripted"]
    if not names:
        return []
    require_model_packages("a look at chat templates")
    from shared.modeling.loading import load_tokenizer
    from shared.modeling.resolving import find_model
    from shared.modeling.thinking import thinking_note

    notes = []
    for name in names:
        student = settings.students[name]
        # A prepared one is there for certain; what it was made of may be gone.
        found = prepared_model(paths.run_dir, name).path if prepared else find_model(student.model, paths.cache_dir)
        if found is not None:
            notes.append(thinking_note(name, load_tokenizer(found, student.chat_template)))
    return [note for note in notes if note is not None]


def served_settings(
    runs_dir: Path,
    run_name: str | None,
    cache_dir: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
) -> tuple[Paths, RunSettings]:
    """The run that is to be served: the one named, or the one begun last. Where settings are given and there is no such
    run, or none is named, it is a new one of these settings, whose students are as they are before training.

    Raises ConfigError, and then nothing is written.
    """
    asked = given(preset, config, overrides)
    if run_name is None and not asked:
        run_name = latest_run(runs_dir)
    paths = paths_for(runs_dir, run_name or new_run_name(preset, config), cache_dir)
    # A run keeps its settings; those that are named are compared with them.
    if not asked or (paths.run_dir / "config.toml").exists():
        return paths, kept_settings(paths, preset, config, overrides)
    settings = settings_from(preset, config, overrides)
    check_settings(paths, settings, "up", takes_steps=False)
    create_run(paths, settings)
    return paths, settings


def can_be_written(directory: Path) -> bool:
    """Whether a directory, or the nearest above it that exists, takes new files."""
    found = existing(directory)
    return found.is_dir() and os.access(found, os.W_OK | os.X_OK)
