"""What a starting broker finds: the run's state, and for a new run the initial scores of one that began alike.

Of two sources that disagree the first in this order is right: a trainer's checkpoint, a sealed manifest, then Redis or
state.json, whichever has the higher (incarnation, revision). Only the last two are read here: a sealed batch that is
announced again is adopted, and a trainer that has applied it already only says so again.

A broker writes `initial_scores.json` when the first scores are in. A new run that finds the file takes the scores
over and goes straight to its first gate, provided that both runs began alike in all that the scores depend on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import Field, ValidationError

from shared.bus.keys import BROKER, RESULTS, STUDENTS, jobs
from shared.bus.port import Bus
from shared.config.generation import EvaluationSection
from shared.config.settings import RunSettings
from shared.config.students import StudentSection
from shared.contracts.jobs import JobDone, JobKind, JobStarted
from shared.contracts.messages import Contract
from shared.contracts.models import prepared_model
from shared.contracts.run import INITIAL_SCORES_FILE, STATE_FILE, RunState, Score, Split
from shared.errors import ConfigError, StorageError, reason
from shared.files.durable import atomic_write
from shared.files.state import read_state_file
from shared.problems.evaluation import evaluated_problems
from shared.problems.problem import ProblemSet, rows_hash

SCORE_RULES = 3
"""Raise it when the same answers are graded otherwise, or the same messages become other prompts."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Recovered:
    """The state to go on from, None for a new run.

    redis_was_empty: it has nothing of the open work, or what it has is older than the state (`drop_open_work`).
    source, why: where it was taken from, for the log.
    """

    state: RunState | None
    redis_was_empty: bool
    source: str
    why: str


def choose(in_redis: str | None, on_disk: str | None) -> Recovered:
    """The state to go on from. Raises StorageError if one that is there cannot be read."""
    remembered = _parse(in_redis, "Redis") if in_redis is not None else None
    saved = _parse(on_disk, STATE_FILE) if on_disk is not None else None
    if remembered is None:
        if saved is None:
            return Recovered(None, False, "nowhere", "a new run")
        return Recovered(saved, True, STATE_FILE, "Redis holds nothing of this run; its queues are filled again")
    if saved is None:
        return Recovered(remembered, False, "Redis", f"there is no {STATE_FILE}")
    # Of two that are equally new Redis is taken: it still has the queues and payloads of the open work.
    if _age(remembered) >= _age(saved):
        return Recovered(remembered, False, "Redis", f"at least as new as {STATE_FILE}: {_ages(remembered, saved)}")
    return Recovered(saved, True, STATE_FILE, f"newer than Redis: {_ages(saved, remembered)}")


def drop_open_work(bus: Bus, students: Sequence[str], fence: int) -> None:
    """Before it is made again with the same ids, what a Redis that is behind the files still has of it: jobs that would
    be done twice, payloads and reports that would be taken for those of the new ones. Raises UnavailableError,
    and FencedError where another broker took over meanwhile.

    What people asked for, and what trainers and replicas said, stays. Killed at any point, it is done once more.
    """
    # In this order: once its job is dropped nobody's report can come any more, nor an output.
    for student in students:
        for kind in JobKind:
            bus.discard(jobs(student, kind), STUDENTS, lambda _: True, fence)
    reports = bus.discard(RESULTS, BROKER, lambda message: isinstance(message, JobStarted | JobDone), fence)
    keys = bus.payload_keys()
    for key in keys:
        bus.drop_payloads(key, fence)
    if reports or keys:
        log.info("open work of an older Redis dropped", reports=reports, payloads=len(keys))


def highest_fence(run_dir: Path) -> int:
    """The fencing token of the last broker that wrote state.json; the next one must be greater."""
    saved = read_state_file(run_dir)
    return _parse(saved, STATE_FILE).fence if saved is not None else 0


def _age(state: RunState) -> tuple[int, int]:
    # The incarnation first: each broker that goes on with the run raises it, and counts revisions on from what it
    # found.
    return state.incarnation, state.revision


def _ages(taken: RunState, left: RunState) -> str:
    return "revision {}.{}, against {}.{}".format(*_age(taken), *_age(left))


def _parse(text: str, source: str) -> RunState:
    try:
        return RunState.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(
            f"the run's state in {source} does not fit this version of opcod: {reason(error)}; "
            f"go on with the version that wrote it, or start a new run"
        ) from error


class Basis(Contract):
    """All that initial scores depend on. problems: content hash of the set; models: sha256, None if scripted.

    rules: `SCORE_RULES` of who measured. evaluated: hash of the problems of each evaluation that takes some of its
    partition.
    """

    rules: int = 1
    seed: int
    problems: str
    evaluation: EvaluationSection
    evaluated: dict[Split, str] = Field(default_factory=dict)
    students: dict[str, StudentSection]
    models: dict[str, str | None]


class InitialScores(Contract):
    """`initial_scores.json`. run: the run that measured them."""

    run: str
    basis: Basis
    scores: list[Score]


def basis_of(settings: RunSettings, problems: ProblemSet, run_dir: Path) -> Basis:
    """Raises ConfigError if the launcher has not written the models of the run."""
    return Basis(
        rules=SCORE_RULES,
        seed=settings.run.seed,
        problems=problems.content_hash,
        evaluation=settings.evaluation,
        evaluated={
            split: rows_hash(rows)
            for split, rows in evaluated_problems(settings, problems).items()
            if len(rows) < len(problems.partition(split.value))
        },
        students={name: _without_address(student) for name, student in settings.students.items()},
        models={name: _model(settings, name, run_dir) for name in sorted(settings.students)},
    )


def keep_initial_scores(run_dir: Path, state: RunState, basis: Basis) -> None:
    """Write the file; scores that were taken over keep the name of the run that measured them."""
    path = run_dir / INITIAL_SCORES_FILE
    # Never written over: taken over from another run, the file names that run as the one that measured.
    if not path.exists():
        kept = InitialScores(run=state.run, basis=basis, scores=state.scores)
        atomic_write(path, kept.model_dump_json(indent=1).encode())


def adopted_scores(run_dir: Path, basis: Basis) -> tuple[Score, ...]:
    """What a new run takes over: nothing without the file, or where it was measured by other rules, for which the file
    goes and the run measures itself. Raises ConfigError naming what differs else.
    """
    path = run_dir / INITIAL_SCORES_FILE
    if not path.exists():
        return ()
    try:
        found = InitialScores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"expected initial scores in {path}: {reason(error)}; remove the file to evaluate again"
        ) from error
    if found.basis.rules != basis.rules:
        log.warning("initial scores were measured by other rules, and are measured again", run=found.run)
        path.unlink()
        return ()
    differing = list(_differences(found.basis.model_dump(mode="json"), basis.model_dump(mode="json")))
    if differing:
        raise ConfigError(
            f"{path} holds the initial scores of run {found.run}, which began differently:\n  "
            + "\n  ".join(differing)
            + "\nremove the file to have this run evaluated itself"
        )
    return tuple(found.scores)


def _without_address(student: StudentSection) -> StudentSection:
    # The port changes no score; two runs on one machine must differ in it.
    return student.model_copy(update={"port": 0})


def _model(settings: RunSettings, student: str, run_dir: Path) -> str | None:
    if settings.students[student].engine == "scripted":
        return None
    return prepared_model(run_dir, student).sha256


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(there.keys() | here.keys()):
        left, right = there.get(key), here.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            yield from _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}: {left!r} there, {right!r} here"
