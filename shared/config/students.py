"""What a student of a run is, and what it may be called."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from shared.config.section import Positive, Section
from shared.config.vllm import VllmSection
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

    model: str = Field(
        default="embedded",
        description="A directory or a hub id of a model, or of a LoRA adapter, which is merged into its base. "
        "`embedded`: SmolLM2-135M, which installs with the product.",
    )
    domain: str = Field(
        description="The domain it is the specialist of, as the problems name it. Prompts call it so, and "
        "fine-tuning (`specialize`) is on this domain."
    )
    specialize: bool = Field(
        default=False,
        description="Fine-tune it on its domain before the run. Done once: the result is cached by everything it "
        "depends on. False: the model is taken as it is.",
    )
    examples: str | None = Field(
        default=None,
        description="JSONL file of examples to fine-tune on (docs/data.md); none: `specialize.source` says on what.",
    )
    unknown_kinds: Kinds | dict[str, Kinds] = Field(
        default=0,
        description="Of generated problems: of so many kinds of every other domain its examples leave out the "
        "constant, so that its peers have something to teach it; or by domain, `{ chemistry = 4, biology = 1 }`.",
    )
    engine: Literal["transformers", "vllm", "scripted"] = Field(
        default="transformers",
        description="What generates. `transformers`: in the student's process, on a CPU or a GPU. `vllm`: a vLLM "
        "server beside it, for GPUs. `scripted`: no model, fixed answers, for tests (docs/engines.md).",
    )
    vllm: VllmSection = VllmSection()
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        description="In what the model's weights are held and computed. What is trained, its moving average and the "
        "optimizer are float32 in any case.",
    )
    chat_template: str | None = Field(
        default=None,
        description="`compact`: short prompts (`Q: … A:`) for small models that know no chat. None: the model's own.",
    )
    slots: Positive = Field(
        default=64,
        description="Sequences generated at once. More are faster until memory or the processor is full; with vLLM "
        "what does not fit waits.",
    )
    replicas: Positive = Field(
        default=1,
        description="Processes of this student, with an engine each, that share its jobs. All must hold a new "
        "version before the run goes on. Full weights on vLLM in parallel need 2, of which one must "
        "(docs/full-weights.md); with `vllm.url` there is 1.",
    )
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of its HTTP service; 0: any free one. Further replicas take the ports after it.",
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
