"""Named points in the life of a step at which a test can hurt the process; outside tests each is a no-op.

`OPCOD_FAULT=trainer.after-checkpoint:kill` strikes at that point, `…:kill:3` at its third passing; several are
separated by commas. Nothing strikes without `OPCOD_FAULTS_ALLOWED=1`. A fault strikes once for each service and
student: it leaves a mark in `<OPCOD_RUN_DIR>/faults` first, so that the process which comes after is spared, and
so that a test can see that it did strike.
"""

import errno
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from shared.errors import ConfigError, OpcodError

ALLOWED = "OPCOD_FAULTS_ALLOWED"
FAULT = "OPCOD_FAULT"
MARKS = "faults"

Action = Literal["kill", "stop", "term", "error", "enospc"]

POINTS = (
    "student.job-taken",
    "student.generated",
    "student.before-complete",
    "student.after-complete",
    "student.version-loaded",
    "broker.before-seal",
    "broker.after-seal",
    "broker.before-commit",
    "broker.after-commit",
    "trainer.before-step",
    "trainer.between-groups",
    "trainer.mid-optimizer",
    "trainer.before-checkpoint",
    "trainer.mid-checkpoint",
    "trainer.after-checkpoint",
    "trainer.before-publish",
    "trainer.after-publish",
    "trainer.before-ack",
)
"""Of a step, in the order of its life within each service."""

RANK_POINTS = ("trainer.rank-mid-step", "trainer.rank-before-seal")
"""That only ranks after the first of a trainer pass."""

_passed: Counter[str] = Counter()
_counting = threading.Lock()


class InjectedError(OpcodError):
    """What the action `error` raises."""


@dataclass(frozen=True)
class Fault:
    """nth: at which passing of the point it strikes, from 1."""

    point: str
    action: Action
    nth: int = 1


def fault_point(point: str) -> None:
    """Strike if a test asks for it here. Raises InjectedError or OSError where that is the action."""
    # First of all: outside tests a point costs one look into the environment.
    if os.environ.get(ALLOWED) != "1":
        return
    passing = _pass(point)
    for fault in parse_faults(os.environ.get(FAULT, "")):
        if fault.point == point and fault.nth == passing and _leave_mark(point):
            _strike(fault)


def parse_faults(text: str) -> list[Fault]:
    """The faults that a value of OPCOD_FAULT names. Raises ConfigError."""
    return [_parse(each.strip()) for each in text.split(",") if each.strip()]


def _parse(text: str) -> Fault:
    point, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    actions = get_args(Action)
    if (
        point not in (*POINTS, *RANK_POINTS)
        or action not in actions
        or not (nth == "" or (nth.isdecimal() and int(nth) > 0))
    ):
        raise ConfigError(
            f"{FAULT}: expected <point>:<action>[:<nth>] with a point of {', '.join(POINTS)} and an action of "
            f"{', '.join(actions)}, got {text!r}"
        )
    return Fault(point, action, int(nth or 1))  # type: ignore[arg-type]


def _pass(point: str) -> int:
    """How often this process has come by, this time included."""
    with _counting:
        _passed[point] += 1
        return _passed[point]


def _leave_mark(point: str) -> bool:
    """False if another process of this service and student was struck here before."""
    marks = Path(os.environ["OPCOD_RUN_DIR"]) / MARKS
    marks.mkdir(exist_ok=True)
    student = os.environ.get("OPCOD_STUDENT", "")
    try:
        # Look and mark in one call, so that of two processes that pass at once one is struck.
        (marks / f"{point}-{student}".rstrip("-")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _strike(fault: Fault) -> None:
    match fault.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "error":
            raise InjectedError(f"injected at {fault.point}")
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fault.point)
