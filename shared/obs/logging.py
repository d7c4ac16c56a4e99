"""structlog set up once a process: JSON in containers, readable on a terminal.

What always holds: a line that cannot be written, as a log on a full disk, is lost, and nobody's work fails over it.

Context that must be in every line is a processor, not a context variable: threads start without those.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import StringIO

import structlog


def configure_logging(*, json: bool, service: str, **context: str | int | None) -> None:
    """Every line carries service and `context` (run, student, replica); logs go to stderr."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            _constant({name: value for name, value in context.items() if value is not None} | {"service": service}),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # The descriptor and not sys.stderr: its buffer would raise later, even at exit, what a full disk has refused.
        logger_factory=structlog.WriteLoggerFactory(file=_Lines(sys.stderr.fileno())),
        # A logger keeps what it finds at its first line, so this comes before anything is logged.
        cache_logger_on_first_use=True,
    )


class _Lines(StringIO):
    """What is written goes to a file descriptor at once; nothing is kept that could fail later."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        with suppress(OSError):
            os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)


def _constant(fields: Mapping[str, object]) -> structlog.typing.Processor:
    def add(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {**fields, **event}

    return add
