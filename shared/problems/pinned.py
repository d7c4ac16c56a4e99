"""The problems that a run was begun with: its `problems.json`, and what there is now beside it.

What always holds: a run goes on with, and is scored on, the problems it was begun with, or not at all.
"""

from pathlib import Path

from pydantic import ValidationError

from shared.config.settings import RunSettings
from shared.errors import ConfigError, reason
from shared.problems.loading import load_problems
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import ProblemSet

PROBLEMS_FILE = "problems.json"


def read_manifest(run_dir: Path) -> ProblemSetManifest | None:
    """The manifest of a run, if it has one. Raises ConfigError for a file that is none."""
    file = run_dir / PROBLEMS_FILE
    if not file.exists():
        return None
    try:
        return ProblemSetManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"expected the manifest of the run's problems in {file}: {reason(error)}") from error


def problems_of_run(run_dir: Path, settings: RunSettings) -> ProblemSet:
    """The problems, which are those of the manifest if there is one.

    Raises ConfigError if they are others now, and as `load_problems`.
    """
    problems = load_problems(settings)
    pinned = read_manifest(run_dir)
    # The content and not the files: the same rows under another path are the same problems.
    if pinned is not None and pinned.content_hash != problems.content_hash:
        raise ConfigError(
            f"run {run_dir.name} was begun with other problems: {'; '.join(_changes(pinned, manifest(problems)))}. "
            f"Put back what problems.source = {settings.problems.source!r} named then, or start a new run"
        )
    return problems


def problems_to_go_on_with(run_dir: Path, settings: RunSettings) -> ProblemSet:
    """As `problems_of_run`, where the run's own scores are compared with new ones: raises ConfigError as well if
    its evaluations were of problems that are chosen otherwise now."""
    problems = problems_of_run(run_dir, settings)
    pinned = read_manifest(run_dir)
    if pinned is not None and _evaluated_otherwise(pinned, settings):
        raise ConfigError(
            f"run {run_dir.name} was begun by a release that chose other problems where evaluations take some of them "
            "(evaluation.validation_problems, test_problems): scores would be compared with those of other problems. "
            "Finish it with that release, or start a new run"
        )
    return problems


def _evaluated_otherwise(pinned: ProblemSetManifest, settings: RunSettings) -> bool:
    """Where the manifest does not say of which kind each problem is, some of several kinds were not chosen by kind."""
    limits = {"validation": settings.evaluation.validation_problems, "test": settings.evaluation.test_problems}
    return any(
        limit is not None and limit < part.count and len(part.kinds) > 1 and not part.kind_of_each
        for name, limit in limits.items()
        for part in pinned.partitions[name].domains.values()
    )


def _changes(pinned: ProblemSetManifest, found: ProblemSetManifest) -> list[str]:
    changed = [
        f"{name} had {part.count} with sha256 {part.sha256[:12]}…, has {found.partitions[name].count} with "
        f"{found.partitions[name].sha256[:12]}…"
        for name, part in pinned.partitions.items()
        if part.sha256 != found.partitions[name].sha256
    ]
    return changed or [f"content hash {pinned.content_hash[:12]}…, now {found.content_hash[:12]}…"]
