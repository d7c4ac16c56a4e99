"""What services used of their machines over time: the newest samples of what their heartbeats said."""

from collections.abc import Sequence

from services.inspector.store.database import Database
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.messages import Contract

MAX_SAMPLES = 50_000
"""Hours of a run with six services, in 4 MB: what is drawn of it are the newest minutes."""

POINTS = 120
"""Of each service in an answer, at most: one for every few pixels of the page."""

_PUT = (
    "INSERT INTO usage (at, service, replica, cores, bytes, gpus, gpu_bytes) "
    "VALUES (:at, :service, :replica, :cores, :bytes, :gpus, :gpu_bytes)"
)
_BETWEEN = """
    SELECT service, span, ROUND(SUM(cores), 3) AS cores, CAST(SUM(bytes) AS INTEGER) AS bytes,
        ROUND(MAX(gpus), 3) AS gpus, CAST(MAX(gpu_bytes) AS INTEGER) AS gpu_bytes
    FROM (
        SELECT service, replica, CAST((at - :begin) / :width AS INTEGER) AS span, AVG(cores) AS cores,
            AVG(bytes) AS bytes, AVG(gpus) AS gpus, AVG(gpu_bytes) AS gpu_bytes
        FROM usage WHERE at BETWEEN :begin AND :end GROUP BY service, replica, span
    )
    GROUP BY service, span ORDER BY service, span
"""


class UsagePoint(Contract):
    """All replicas of a service together, on the mean from begin to end (seconds since the epoch); other fields as in
    a heartbeat's usage. gpus, gpu_bytes: of the replica with the most, as replicas may share cards and each tells of
    whole ones."""

    service: str
    begin: float
    end: float
    cores: float
    bytes: int
    gpus: float | None
    gpu_bytes: int | None


class UsageSamples:
    """A part of the store. limit: samples that are kept."""

    def __init__(self, database: Database, limit: int = MAX_SAMPLES) -> None:
        self._database = database
        self._limit = limit

    def put(self, beats: Sequence[Heartbeat]) -> None:
        """Those that say what they use. The oldest samples go where there are too many."""
        rows = [
            {"at": beat.at, "service": beat.service, "replica": beat.replica} | beat.usage.model_dump()
            for beat in beats
            if beat.usage is not None
        ]
        with self._database.transaction() as connection:
            connection.executemany(_PUT, rows)
            connection.execute("DELETE FROM usage WHERE id <= (SELECT MAX(id) FROM usage) - ?", (self._limit,))

    def between(self, begin: float, end: float, *, period_s: float) -> list[UsagePoint]:
        """By service, in order. period_s: between two heartbeats."""
        # Wide enough for a heartbeat of every replica, or the sum over them would go up and down.
        width = max((end - begin) / POINTS, 2 * period_s)
        rows = self._database.read(_BETWEEN, {"begin": begin, "end": end, "width": width})
        return [
            UsagePoint(begin=round(begin + span * width, 3), end=round(begin + (span + 1) * width, 3), **fields)
            for fields in map(dict, rows)
            for span in [fields.pop("span")]
        ]
