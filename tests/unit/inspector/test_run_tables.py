"""What became of a student, in words."""

import pytest

from services.inspector.web.run_tables import directions
from shared.results.progress import Improvement


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"physics": 0.6, "chemistry": 0.3}, "better in physics and chemistry, worse in none"),
        ({"physics": 0.5, "chemistry": 0.3}, "better in chemistry, worse in none"),
        ({"physics": 0.4, "chemistry": 0.3}, "better in chemistry, worse in physics"),
        ({"physics": 0.5, "chemistry": 0.2}, "better in none, worse in none"),
    ],
)
def test_directions_name_the_domains(last: dict[str, float], said: str) -> None:
    found = Improvement(
        student="a", split="test", first={"physics": 0.5, "chemistry": 0.2}, last=last, pareto="none" in said
    )
    assert directions(found) == said
