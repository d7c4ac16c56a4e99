"""Going back to an earlier version of a finished run: a new version with the old tensors, never a rewrite."""

import shutil
from functools import partial
from pathlib import Path

from opcod.local.deployment import is_elsewhere, run_lock
from opcod.weights.versions import faults_of, versions_of
from shared.bus.redis import RedisBus
from shared.config.environment import service_environment
from shared.contracts.ids import version_name, weights_uri
from shared.contracts.run import RunState, Status
from shared.errors import ConfigError, StorageError
from shared.files.state import write_state_file
from shared.files.store import Content, LocalStore


def roll_back(run_dir: Path, state: RunState, student: str, to: str) -> str:
    """Publish the tensors of `to` as the student's newest version, and make it the live one; returns its name.

    `state` is what `state.json` holds; the next broker takes the changed one up. Raises ConfigError if the run is up,
    not DONE, or has no such version, StorageError if that version is not what was published, UnavailableError if Redis
    cannot say whether a broker of another container is up.
    """
    if state.status is not Status.DONE:
        raise ConfigError(
            f"expected a run that is DONE, {state.run} is {state.status.value}: training goes on from the newest "
            f"version only. Let it end, or begin another run"
        )
    with run_lock(run_dir):
        if is_elsewhere():
            _refuse_beside_a_broker(state.run)
        versions = {version.name: version for version in versions_of(run_dir, student)}
        if to not in versions:
            there = f"{next(iter(versions))} to {list(versions)[-1]}" if versions else "none"
            raise ConfigError(f"--to: expected a published version of student {student} ({there}), got {to!r}")
        source = versions[to]
        if source.pruned:
            raise ConfigError(
                f"--to: {to} was pruned; `opcod replay {state.run} --student {student} --until {to.partition('@')[2]} "
                "--into <name>` makes its tensors again, in a run of their own"
            )
        if faults := list(faults_of(run_dir, source)):
            raise StorageError(f"{to} is not what was published: {'; '.join(faults)}")
        step = max(version.manifest.step for version in versions.values()) + 1
        name, parent = version_name(student, step), version_name(student, step - 1)
        changes = {"version": name, "parent": parent, "step": step, "batch_sha256": None, "restores": to}
        manifest = source.manifest.model_copy(update=changes)
        files: dict[str, Content] = {
            entry.name: partial(shutil.copyfile, run_dir / source.uri / entry.name) for entry in manifest.files
        }
        LocalStore(run_dir).write_directory(weights_uri(student, step), files, manifest.model_dump_json().encode())
        live = {**state.version, student: name}
        write_state_file(run_dir, state.model_copy(update={"version": live, "revision": state.revision + 1}))
    return name


def _refuse_beside_a_broker(run: str) -> None:
    """Containers hold no lock; a broker that is up says so on Redis, and would write over what is changed here."""
    environment = service_environment()
    bus = RedisBus(environment.bus_url(), run)
    try:
        brokers = [beat for beat in bus.heartbeats() if beat.service == "broker"]
    finally:
        bus.close()
    if brokers:
        raise ConfigError(
            f"expected a run that is not up, the broker of {run} is: stop it (`docker-compose stop broker`; in a "
            "cluster scale it to 0), try again some seconds later, when its heartbeat is gone, and then start it"
        )
