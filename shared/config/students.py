"""What a student of a run is, and what it may be called."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from shared.config.machine import VllmSection
from shared.config.section import Positive, Section
from shared.errors import MAX_SHOWN_CHARS

_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
"""No `@`, `.`, `:` or `-`, which part a student's name from the rest in versions, ids, queues and services."""

RESERVED = frozenset({"peers"})
"""What OpenAI clients name instead of a student to ask all of them."""


def require_names(names: Sequence[str]) -> None:
    """Raises ValueError for a name that no student can have."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "expected students named by a small letter and up to 15 more small letters and digits, got "
                f"{name[:MAX_SHOWN_CHARS]!r}"
            )
        if name in RESERVED:
            raise ValueError(f"expected another name than {name!r}, which stands for all students; choose one")


Kinds = Annotated[int, Field(ge=0, le=5)]


class StudentSection(Section):
    """One student: which model it is and how it is served."""

    model: str = Field(default="embedded", description="`embedded`, a directory or a hub id; of an adapter too.")
    domain: str = Field(description="Its stronger domain: it is fine-tuned on it, and named so to its peer.")
    specialize: bool = Field(default=False, description="Fine-tune on the own domain first, cached by content.")
    examples: str | None = Field(
        default=None, description="JSONL file to fine-tune on (docs/data.md); none: `specialize.source` says on what."
    )
    unknown_kinds: Kinds | dict[str, Kinds] = Field(
        default=0,
        description="Of the generated problems: so many kinds of each other domain are left for its peers to teach it; "
        "or by domain, `{ chemistry = 4, biology = 1 }`.",
    )
    engine: Literal["transformers", "vllm", "scripted"] = "transformers"
    vllm: VllmSection = VllmSection()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    chat_template: str | None = Field(default=None, description="A template of ours (`compact`), else the model's.")
    slots: Positive = Field(default=64, description="Sequences generated at once.")
    replicas: Positive = Field(
        default=1,
        description="Processes with an engine each that `opcod run` starts (one where `vllm.url` is set), and that "
        "must hold a new version before the broker goes on with it; full weights on vLLM in parallel need 2, of which "
        "one must (docs/full-weights.md).",
    )
    port: int = Field(
        default=0, ge=0, le=65535, description="0 = any free port; a further replica has the next one after it."
    )

    @property
    def finds_server(self) -> bool:
        """Whether its vLLM server is somebody else's, at a URL."""
        return self.engine == "vllm" and self.vllm.url is not None

    @property
    def started(self) -> int:
        """Replicas that `opcod` starts: one where the server is found, as two would ask the same."""
        return 1 if self.finds_server else self.replicas

    def unknown_in(self, domain: str) -> int:
        """How many kinds of another domain it is not to know."""
        return self.unknown_kinds.get(domain, 0) if isinstance(self.unknown_kinds, dict) else self.unknown_kinds
