"""How students are made specialists of their domains before a run (docs/data.md)."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share
from shared.contracts.messages import Sampling


class SamplingSection(Section):
    """The answers of its own that a student is fine-tuned on, with `specialize.source = "self"` (docs/data.md)."""

    samples: Positive = Field(
        default=8,
        description="k: answers drawn to each problem. Of the problems that are solved one time in four, nine in ten "
        "get a right one.",
    )
    keep: Positive = Field(
        default=2,
        description="m: right answers kept of a problem, at most. With all of them most of what is learnt would be of "
        "the easy ones.",
    )
    min_examples: Positive = Field(
        default=64,
        description="With fewer right answers nothing is fine-tuned: they make a handful of updates, which teach the "
        "form of an answer at most.",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=5, description="As rollouts: a student that learns likelier answers would vary less."
    )
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Positive = Field(default=4096, description="An answer that is cut there is not kept.")

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class SpecializeSection(Section):
    """Fine-tuning a student on its own domain before the run; no effect on students with `specialize = false`."""

    source: Literal["problems", "self"] = Field(
        default="problems",
        description="The examples of students that name no file: what generated problems bring, or the base model's "
        "own right answers to the training problems of the student's domain.",
    )
    sampling: SamplingSection = SamplingSection()
    learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: Positive = 8
    epochs: Positive = 1
    warmup_share: Share = 0.1
    beta1: float = Field(default=0.9, gt=0, lt=1)
    beta2: float = Field(default=0.99, gt=0, lt=1)
