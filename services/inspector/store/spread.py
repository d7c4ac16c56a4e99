"""How exchanges spread over what a reader may filter by: the SQL that counts them, in one pass over the filter's."""

from dataclasses import dataclass

from shared.contracts.traces import HEAT_NATS

_HEATS = " ".join(f"WHEN nats < {edge} THEN {heat}" for heat, edge in enumerate(HEAT_NATS[1:]))

DIMENSIONS = {
    "student": "student",
    "domain": "domain",
    "correct": "correct",
    "change": "change",
    "verdict": "verdict",
    "step": "step",
    "chars": "chars",
    "heat": f"CASE {_HEATS} ELSE {len(HEAT_NATS) - 1} END",
}
"""What is counted, and the SQL of its value. heat: the step of HEAT_NATS that the mean divergence falls into."""


@dataclass(frozen=True)
class Counted:
    """How many exchanges have this value. Never None: what is not known of an exchange is not counted."""

    dimension: str
    value: str | int
    count: int


_KEY = "student, step, problem_id, sample"
_KNOWN = {"change": "change IS NOT NULL", "heat": "nats IS NOT NULL"}

# Materialized, or the texts of all exchanges would be read for every dimension anew.
SPREAD = (
    "WITH found AS MATERIALIZED (SELECT student, domain, correct, verdict, step, length(response) AS chars, "
    "revisions.change AS change, divergences.nats AS nats FROM exchanges "
    f"LEFT JOIN revisions USING ({_KEY}) LEFT JOIN divergences USING ({_KEY}) WHERE {{where}}) "
) + " UNION ALL ".join(
    f"SELECT '{name}' AS dimension, {value} AS value, COUNT(*) AS count FROM found "
    f"WHERE {_KNOWN.get(name, 'TRUE')} GROUP BY 2"
    for name, value in DIMENSIONS.items()
)
