"""How much waits in the run's queues, for whoever watches: read from Redis every few seconds, acted on by nobody."""

import threading

import structlog

from services.broker.metrics import DEAD_LETTERS, QUEUED
from shared.bus.keys import queues_of
from shared.bus.port import Bus
from shared.errors import OpcodError

PERIOD_S = 5.0

log = structlog.get_logger()


def watch_queues(bus: Bus, students: tuple[str, ...], stopping: threading.Event) -> None:
    """Until `stopping`; whatever the server says, it is asked again: a run does not hang on being measured."""
    while not stopping.wait(PERIOD_S):
        try:
            show_queues(bus, students)
        except OpcodError as error:
            log.warning("queues not read", error=str(error))


def show_queues(bus: Bus, students: tuple[str, ...]) -> None:
    """Set the gauges once. Raises UnavailableError."""
    for queue, group in queues_of(students):
        waiting, in_hand = bus.queue_depth(queue, group)
        QUEUED.labels(queue, "waiting").set(waiting)
        QUEUED.labels(queue, "in_hand").set(in_hand)
    DEAD_LETTERS.set(len(bus.dead_letters()))
