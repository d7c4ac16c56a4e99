"""The engine's thread: the only one that touches the engine, turn by turn.

A turn: answer people, tell the bus what is due, keep the versions in step, take jobs, run the most urgent group.
What always holds: people wait for at most the group that runs; feedback for at most one group of lower kinds;
while the bus is away people are still answered, and what was generated waits in the outbox.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from services.student import metrics
from services.student.board import Board
from services.student.engines.port import Engine, Generation, GenerationCancelledError, GenerationRequest
from services.student.generation import Failure, describe, generate_each, requests_for
from services.student.intake import HeldJob, JobIntake
from services.student.interactive import InteractiveQueue, Question
from services.student.loader import VersionRefusedError
from services.student.outbox import Outbox
from services.student.versions import VersionKeeper
from shared.clock import Clock
from shared.contracts.jobs import JobInput, JobKind
from shared.errors import MalformedMessageError, OpcodError, UnavailableError

IDLE_S = 0.1
"""Longest wait for a job; people wait for it too."""

RETRY_S = 0.5
"""Pause before the next try while the bus does not answer."""

SECONDS_PER_TOKEN = 1.0
"""One decoding step of a full batch that takes longer than this means a stuck engine."""

log = structlog.get_logger()


class GenerationError(OpcodError):
    """The engine failed on this request alone; its class and message are in the text."""


class EngineDeadError(UnavailableError):
    """The engine says that it cannot answer any more: the process ends, its jobs are taken again."""


class EngineWorker:
    """Everything but the constructor and `cancel_running` runs in the engine's thread."""

    def __init__(
        self,
        *,
        engine: Engine,
        bus_parts: "BusParts",
        interactive: InteractiveQueue,
        board: Board,
        clock: Clock,
        stopping: threading.Event,
    ) -> None:
        pass
