"""What the fork server imports: all that a service or a command would import as it begins, and what nearly each of them
would make anew. It settles its memory last.
"""

import gc
from importlib import import_module

from shared.config.loading import load_settings
from shared.method.sanitizing import sanitize
from shared.problems.integer_reveals import split_integer_reveals
from shared.problems.loading import problems_of

PROGRAMS = (
    "opcod.main",
    "services.broker.app",
    "services.inspector.app",
    "services.student.app",
    "services.student.engines.transformers",
    "services.student.work.generation",
    "services.trainer.app",
    "services.trainer.model.sharded",
    "services.trainer.ranks.launching",
    "services.trainer.ranks.processes",
)

for module in PROGRAMS:
    import_module(module)

# Kept by `problems_of`; drawing it would be most of a scripted service's start.
problems_of(load_settings(preset="smoke", environ={}))

# Patterns are compiled for the first text, some for the first that is not ASCII.
sanitize("né")
split_integer_reveals("né", "1")

# Half a million objects of torch's and ours: a collection in a child would look at each of them, and so copy its page.
gc.collect()
gc.freeze()
