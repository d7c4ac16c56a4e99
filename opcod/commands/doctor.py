"""`opcod doctor`: is this machine, and what is up on it, fit for a run?

Each finding says what was found and, where it is not well, what to do.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer
from redis.exceptions import ResponseError
from rich.table import Table
from rich.text import Text

from opcod.local.deployment import Deployment, is_elsewhere, live_deployment
from opcod.local.gpus import require_room, share_out, share_out_all, visible
from opcod.local.host_memory import memory_here
from opcod.local.progress import make_console
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
    paths_for,
    settings_from,
)
from opcod.planning.cards import GIB
from opcod.planning.disk import disk_needs, existing, shapes_of
from opcod.planning.host import memory_note, run_bytes
from opcod.planning.work import prompt_lengths
from opcod.prepare.checks import can_be_written, thinking_notes
from shared.bus.keys import queues_of
from shared.bus.redis import RedisBus
from shared.config.machine import cores_here
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError, OpcodError, UnavailableError
from shared.gpus import driver, gpus_here
from shared.http.access import read_keys
from shared.problems.loading import load_problems
from shared.vllm import find_installation

PACKAGES = ("torch", "transformers", "peft", "safetensors", "redis", "fastapi", "pydantic")
OLDEST_REDIS = 7
SLOW_PING_S = 0.05
CLOCK_TOLERANCE_S = 5.0
State = Literal["ok", "warn", "bad"]


def doctor(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up, if any.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Examine this machine for a preset, and the run that is up; say what is wrong and what to do.

    Exit code 1 if something is bad.

    Example: `opcod doctor --preset phys-chem`
    """
    settings = settings_from(preset, config, overrides)
    findings = examine_machine(paths_for(runs_dir, "doctor", cache_dir), settings)
    try:
        findings += examine_deployment(live_deployment(runs_dir, run_name))
    except UnavailableError as error:
        findings.append(Finding("run", "ok" if run_name is None else "bad", str(error)))
    table = Table("what", "", "found")
    for finding in findings:
        table.add_row(Text(finding.what), Text(finding.state, style=STYLES[finding.state]), Text(finding.found))
    make_console().print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Finding:
    what: str
    state: State
    found: str


def examine_machine(paths: Paths, settings: RunSettings) -> list[Finding]:
    """Python, packages, cores, memory, disk, and whether the cache can be written.

    No packages where services run elsewhere: an image has those that its own processes need.
    """
    return [
        Finding("python", "ok", sys.version.split()[0]),
        *(() if is_elsewhere() else map(_package, PACKAGES)),
        _threads(settings, cores_here()),
        _memory(settings),
        *_disks(paths, settings),
        *_engines(settings),
        *(() if is_elsewhere() else _templates(paths, settings)),
        _writable("runs", paths.runs_dir),
        _writable("cache", paths.cache_dir),
    ]


def examine_deployment(deployment: Deployment) -> list[Finding]:
    """The run that is up: its keys, Redis, heartbeats, queues and dead letters."""
    findings = [_keys(deployment.key_file)]
    try:
        url = deployment.bus_url()
    except ConfigError as error:
        return [*findings, Finding("redis", "bad", str(error))]
    bus = RedisBus(url, deployment.run)
    try:
        # One by one: what was found before something fails is told.
        findings += _redis(bus)
        findings += _services(bus)
        findings += _queues(bus, deployment.settings().names)
    except ConfigError as error:
        findings.append(Finding("settings", "bad", str(error)))
    except OpcodError as error:
        findings.append(Finding("redis", "bad", str(error)))
    finally:
        bus.close()
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "bad", "not installed; `make setup` installs what a run on one machine needs")


def _threads(settings: RunSettings, cores: int) -> Finding:
    on_cpu, on_gpu = (settings.threads_on(device, cores) for device in ("cpu", "cuda"))
    if on_cpu > cores:
        return Finding("threads", "warn", f"{on_cpu} a model process on {cores} cores; lower resources.threads")
    beside = f", {on_gpu} beside a GPU" if on_gpu != on_cpu else ""
    return Finding("threads", "ok", f"{on_cpu} a model process{beside}, on {cores} cores")


def _memory(settings: RunSettings) -> Finding:
    there = memory_here()
    # Of a container's share not all that is taken is seen.
    free = min(psutil.virtual_memory().available, there)
    told = f"{free / GIB:.1f} of {there / GIB:.1f} GiB free"
    try:
        gpu = gpus_here() > 0
        lengths = prompt_lengths(load_problems(settings), settings, None)
        wanted = run_bytes(settings, shapes_of(settings), lengths, gpu=gpu)
    except OpcodError:  # told where GPUs, problems and models are looked at
        return Finding("memory", "ok", told)
    short = memory_note(settings, wanted, there, gpu=gpu) is not None
    wants = f", a run of these settings wants about {wanted / GIB:.1f}" if wanted else ""
    return Finding("memory", "warn" if short else "ok", told + wants)


def _disks(paths: Paths, settings: RunSettings) -> Iterator[Finding]:
    try:
        needs = disk_needs([(paths, settings)])
    except OpcodError as error:
        yield Finding("disk", "bad", str(error))
        return
    for need in needs:
        free, where = f"{need.free / 1e9:.1f} GB free", " and ".join(map(str, need.places))
        told = f"{free} under {where}, a run of these settings wants {need.bytes / 1e9:.1f}"
        yield Finding("disk", "bad" if need.free < need.bytes else "ok", told)


def _engines(settings: RunSettings) -> Iterator[Finding]:
    """vLLM, where a student wants it, and the GPUs."""
    for name, student in sorted(settings.students.items()):
        if student.engine != "vllm":
            continue
        if student.vllm.url is not None:
            yield Finding(
                f"vllm of student {name}", "ok", f"expected at {student.vllm.url}; it is asked when a run begins"
            )
            continue
        try:
            found = find_installation(student.vllm)
            kind = " for CPUs" if found.on_cpu else ""
            yield Finding(f"vllm of student {name}", "ok", f"{found.version}{kind}, {found.python}")
        except (ConfigError, UnavailableError) as error:
            yield Finding(f"vllm of student {name}", "bad", str(error))
    try:
        available, nodes = gpus_here(), settings.resources.nodes
        # Other nodes are taken for like this one.
        require_room(settings, share_out_all(settings, available))
        shares = share_out(settings, available)
        told = ", ".join(f"{service}: {visible(gpus)}" for service, gpus in shares.items())
        nothing = "nothing here" if available else "none; models run on the CPU"
        yield Finding("gpus", "ok", (f"node 0 of {nodes}: " if nodes > 1 else "") + (told or nothing))
    except (ConfigError, UnavailableError) as error:
        yield Finding("gpus", "bad", str(error))
        return
    if shares and find_spec("torch") is not None:
        yield _torch_on_gpus()


def _torch_on_gpus() -> Finding:
    # Here and not above: torch takes seconds, which a machine without GPUs need not spend.
    from shared.modeling.device import device_here

    try:
        return Finding("torch on a gpu", "ok", f"{device_here()}; {driver()}")
    except (ConfigError, UnavailableError) as error:
        return Finding("torch on a gpu", "bad", str(error))


def _templates(paths: Paths, settings: RunSettings) -> Iterator[Finding]:
    """Of the models that are here already; none is fetched."""
    try:
        notes = thinking_notes(paths, settings, prepared=False)
    except OpcodError as error:
        yield Finding("chat templates", "bad", str(error))
        return
    yield from (Finding("chat templates", "warn", note) for note in notes)


def _writable(what: str, path: Path) -> Finding:
    if can_be_written(path):
        return Finding(what, "ok", str(path))
    return Finding(
        what, "bad", f"{existing(path)} is no directory or cannot be written; choose another with --{what}-dir"
    )


def _keys(path: Path) -> Finding:
    try:
        read_keys(path)
    except ConfigError as error:
        return Finding("keys", "bad", str(error))
    if path.stat().st_mode & 0o007:
        return Finding("keys", "bad", f"others can read {path}; chmod 600 it, or replace the keys")
    return Finding("keys", "ok", f"{path}, not readable by others")


def _redis(bus: RedisBus) -> Iterator[Finding]:
    began = time.monotonic()
    bus.ping()
    took = time.monotonic() - began
    yield Finding("redis ping", "warn" if took > SLOW_PING_S else "ok", f"{1000 * took:.1f} ms")
    info = bus.link.client.info()
    number = str(info.get("redis_version", "0"))
    # Valkey says a Redis version, too: the one it is compatible with.
    old = int(number.split(".")[0]) < OLDEST_REDIS
    yield Finding("redis version", "bad" if old else "ok", number + (f"; {OLDEST_REDIS}.0 is needed" if old else ""))
    durable = bool(info.get("aof_enabled"))
    kept = "append-only file on" if durable else "append-only file off: set appendonly yes, or a crash costs the queues"
    yield Finding("redis persistence", "ok" if durable else "bad", kept)
    broken = info.get("aof_last_write_status", "ok") != "ok"
    if broken:
        yield Finding("redis disk", "bad", "the last write of the append-only file failed: free some disk")
    yield _policy(bus)


def _policy(bus: RedisBus) -> Finding:
    try:
        policy = str(bus.link.client.config_get("maxmemory-policy").get("maxmemory-policy", "unknown"))
    except ResponseError:
        return Finding("redis eviction", "warn", "the server does not tell; it must be noeviction")
    if policy == "noeviction":
        return Finding("redis eviction", "ok", policy)
    return Finding("redis eviction", "bad", f"{policy}: set maxmemory-policy noeviction, or queues are lost in silence")


def _services(bus: RedisBus) -> Iterator[Finding]:
    now = time.time()
    for beat in sorted(bus.heartbeats(), key=lambda beat: (beat.service, beat.replica)):
        age_s = now - beat.at
        name = f"{beat.service}/{beat.replica}"
        if age_s < -CLOCK_TOLERANCE_S:
            yield Finding(name, "warn", f"its clock is {-age_s:.0f} s ahead of this machine's; run a time service")
        else:
            yield Finding(
                name, "ok" if beat.state == "ready" else "warn", f"{beat.state}, said {max(age_s, 0):.1f} s ago"
            )


def _queues(bus: RedisBus, students: Sequence[str]) -> Iterator[Finding]:
    for queue, group in queues_of(students):
        waiting, pending = bus.queue_depth(queue, group)
        if waiting or pending:
            yield Finding(f"queue {queue}", "ok", f"{waiting} waiting, {pending} in hand")
    letters = len(bus.dead_letters())
    yield Finding(
        "dead letters", "warn" if letters else "ok", f"{letters}" + ("; see `opcod dlq list`" if letters else "")
    )


STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}
