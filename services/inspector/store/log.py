"""What the log of events says of the run as a whole: events by kind, counts over its exchanges."""

from collections.abc import Sequence
from typing import TypeVar

from services.inspector.store.database import ReadOnlyDatabase
from services.inspector.store.records import LOGGED_EVENT, LoggedEvent
from shared.contracts.events import EVENT, BaseEvent, Evaluated, Event, GateDecided, GroupGraded, StepApplied
from shared.results.progress import Logged, VerdictCount

Kind = TypeVar("Kind", bound=BaseEvent)

SMALL_KINDS = ("status", "taken_up", "gate", "evaluated", "step", "lost", "alarm", "silenced", "acted", "gap")
"""Events that happen a few times a step at most: what a person reads as the history of a run."""

# `+` before kind: it keeps SQLite from the index over kinds, which would read all that there ever was of them, for each
# look at a run.
_SINCE_STEP = """
    WITH steps AS (
        SELECT position, ROW_NUMBER() OVER (PARTITION BY body ->> 'student' ORDER BY position DESC) AS newest,
            COUNT(*) OVER (PARTITION BY body ->> 'student') AS made
        FROM events WHERE kind = 'step'
    ), begins AS (
        SELECT CASE WHEN made < :count THEN 0 ELSE position END AS position FROM steps
        WHERE newest = MIN(:count, made)
    )
    SELECT body FROM events WHERE position >= COALESCE((SELECT MIN(position) FROM begins), 0)
        AND (
            +kind IN ('status', 'group', 'sealed', 'step', 'serving', 'evaluated')
            OR +kind IN ('feedback', 'revised') AND body ->> 'sample' = 0
        )
    ORDER BY position
"""


class RunLog:
    """Questions to the store that are about no single exchange."""

    def __init__(self, database: ReadOnlyDatabase) -> None:
        self._database = database

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """Every event of one kind, in order."""
        word = kind.model_fields["kind"].default
        rows = self._database.read("SELECT body FROM events WHERE kind = ? ORDER BY position", (word,))
        return [kind.model_validate_json(row["body"]) for row in rows]

    def newest(self, kinds: Sequence[str], limit: int) -> list[LoggedEvent]:
        """The newest events of some kinds, newest first."""
        marks = ", ".join("?" for _ in kinds)
        sql = f"SELECT body FROM events WHERE kind IN ({marks}) ORDER BY position DESC LIMIT ?"
        return [LOGGED_EVENT.validate_json(row["body"]) for row in self._database.read(sql, [*kinds, limit])]

    def since_step(self, count: int) -> list[Event]:
        """What tells when the newest steps were made, in order: from the event of each student's count-th newest
        applied step on, from the log's beginning where one has fewer.

        Of a group's feedback, and of its revisions, one stands for all: they are told together.
        """
        rows = self._database.read(_SINCE_STEP, {"count": count})
        return [EVENT.validate_json(row["body"]) for row in rows]

    def domains(self) -> list[str]:
        """Every domain in which students were evaluated, by name."""
        rows = self._database.read(
            "SELECT DISTINCT scores.key AS domain FROM events, json_each(body, '$.scores') AS scores "
            "WHERE kind = 'evaluated' ORDER BY domain"
        )
        return [row["domain"] for row in rows]

    def groups_of(self, student: str, problem_id: str) -> list[GroupGraded]:
        """Every time the student answered this problem in training, in order."""
        rows = self._database.read(
            "SELECT body FROM events WHERE kind = 'group' AND body ->> 'student' = ? AND body ->> 'problem_id' = ? "
            "ORDER BY position",
            (student, problem_id),
        )
        return [GroupGraded.model_validate_json(row["body"]) for row in rows]

    def results(self) -> Logged:
        """All that the log holds of the run's results."""
        return Logged(
            self.all_of(Evaluated), self.all_of(GateDecided), self.all_of(StepApplied), self._verdict_counts()
        )

    def _verdict_counts(self) -> list[VerdictCount]:
        rows = self._database.read(
            "SELECT student, step, verdict, COUNT(*) AS count FROM exchanges "
            "GROUP BY student, step, verdict ORDER BY student, step, verdict"
        )
        return [VerdictCount(**dict(row)) for row in rows]
