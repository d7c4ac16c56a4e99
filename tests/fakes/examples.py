"""How many examples of a property are tried where each is a whole run.

A suite that is run again with its one seed tries the same examples again, so it tries few. `make properties` tries
many, from another seed each time.
"""

import os

MANY = os.environ.get("OPCOD_PROPERTIES_MANY") == "1"


def whole_runs(few: int) -> int:
    """max_examples: `few`, or with OPCOD_PROPERTIES_MANY=1 twenty times as many."""
    return 20 * few if MANY else few
