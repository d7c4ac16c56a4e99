"""How students are made specialists of their domains before a run (docs/data.md)."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share
from shared.contracts.messages import Sampling


class SamplingSection(Section):
    """The answers of its own that a student is fine-tuned on, with `specialize.source = "self"` (docs/data.md)."""

    samples: Positive = Field(
        default=8,
        description="k: answers drawn to each problem. With 8, nine in ten of the problems that the model solves one "
        "time in four get a right answer.",
    )
    keep: Positive = Field(
        default=2,
        description="m: right answers kept of each problem at most. If all were kept, easy problems would make up "
        "most of the examples.",
    )
    min_examples: Positive = Field(
        default=64,
        description="With fewer right answers in all nothing is fine-tuned: so few teach the form of an answer at "
        "most.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=5,
        description="Sampling temperature, that of rollouts: lower, and the student would later vary its answers less.",
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw from the likeliest tokens that together have this probability."
    )
    max_tokens: Positive = Field(
        default=4096, description="Tokens of an answer at most; one that is cut there is not kept."
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class SpecializeSection(Section):
    """Fine-tuning a student on its own domain before the run; no effect on students with `specialize = false`."""

    source: Literal["problems", "self"] = Field(
        default="problems",
        description="On what to fine-tune a student that names no `examples`. `problems`: what the generated "
        "problems bring. `self`: right answers that its own model gives to the training problems of its domain.",
    )
    sampling: SamplingSection = SamplingSection()
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        description="Learning rate after warm-up; a cosine takes it down to 0. The default suits the small embedded "
        "model: of an 8B model take about 1e-4.",
    )
    batch_size: Positive = Field(default=8, description="Examples in one update.")
    epochs: Positive = Field(default=1, description="How often all examples are gone through.")
    warmup_share: Share = Field(default=0.1, description="Share of all updates over which the rate rises.")
    beta1: float = Field(default=0.9, gt=0, lt=1, description="AdamW: decay of the first moment.")
    beta2: float = Field(default=0.99, gt=0, lt=1, description="AdamW: decay of the second moment.")
