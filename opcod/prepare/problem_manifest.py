"""`problems.json` of a run: the manifest of the problems that it was begun with.

What always holds: a run goes on with those problems or not at all.
"""

from pydantic import ValidationError

from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.problems.loading import load_problems
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import ProblemSet

FILE = "problems.json"


def pin_problems(paths: Paths, settings: RunSettings) -> ProblemSet:
    """Write the manifest, or compare with the one that is there; returns the problems.

    Raises ConfigError if the problems are not what they were when the run was begun, and as `load_problems`.
    """
    problems = load_problems(settings)
    found = manifest(problems)
    pinned = read_manifest(paths)
    if pinned is None:
        atomic_write(paths.run_dir / FILE, found.model_dump_json(indent=1).encode())
    elif pinned.content_hash != found.content_hash:
        raise ConfigError(
            f"run {paths.run} was begun with other problems: {'; '.join(_changes(pinned, found))}. "
            f"Put back what problems.source = {settings.problems.source!r} named then, or start a new run"
        )
    return problems


def read_manifest(paths: Paths) -> ProblemSetManifest | None:
    """The manifest of a run, if it has one. Raises ConfigError for a file that is none."""
    file = paths.run_dir / FILE
    if not file.exists():
        return None
    try:
        return ProblemSetManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"expected the manifest of the run's problems in {file}: {error}") from error


def _changes(pinned: ProblemSetManifest, found: ProblemSetManifest) -> list[str]:
    changed = [
        f"{name} had {part.count} with sha256 {part.sha256[:12]}…, has {found.partitions[name].count} with "
        f"{found.partitions[name].sha256[:12]}…"
        for name, part in pinned.partitions.items()
        if part.sha256 != found.partitions[name].sha256
    ]
    return changed or [f"content hash {pinned.content_hash[:12]}…, now {found.content_hash[:12]}…"]
