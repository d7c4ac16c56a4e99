"""How a student learns from a batch: loss, optimizer and adapter."""

from typing import Literal

from pydantic import Field

from shared.config.section import Positive, Section, Share

# Two rows of the longest trees: more saves no time on a CPU, and costs memory there.
CPU_PASS_TOKENS = 1024


class LossSection(Section):
    """The loss of self-distillation (paper eq. 1): how far the student is from its self-teacher at each token of its
    own answer ([the method](method.md#loss))."""

    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Which divergence. 0: forward KL (the student must cover what the teacher may say). 1: reverse "
        "KL (it may settle on one way). Between: Jensen-Shannon, weighted so. Paper: 0.5.",
    )
    top_k: Positive | Literal["all"] = Field(
        default=100,
        description="Compare the student's likeliest k tokens, or `all` of the vocabulary, which costs memory and "
        "time and changes little. Paper: 100.",
    )
    tail: bool = Field(
        default=True,
        description="Put all other tokens into one more bucket. Without it the k are rescaled to sum to 1. Paper: "
        "true.",
    )
    aggregation: Literal["seq_mean", "seq_mean_active", "token_mean"] = Field(
        default="seq_mean",
        description="How tokens' losses become one. `seq_mean`, the paper's: mean over the tokens of each rollout, "
        "then over all rollouts, those without anything to learn from as 0. `seq_mean_active`: those left out. "
        "`token_mean`: over all tokens, so that long answers weigh more.",
    )
    is_clip: float = Field(
        default=2.0,
        gt=0,
        description="Importance weights correct for what engine and trainer compute differently; none is more than "
        "this. The report says how many were cut. Paper: 2.",
    )
    demo_self_exclude: bool = Field(
        default=True,
        description="A rollout is never its own demonstration. Then the only right answer of a group has none, and "
        "without feedback it is not trained on.",
    )
    teacher: Literal["ema", "trust_region"] = Field(
        default="ema",
        description="The self-teacher. `ema`, the paper's: a moving average of the student's weights. "
        "`trust_region`: the student mixed with what it was when the phase began; a step then takes longer by one "
        "more pass.",
    )
    trust_region_mix: Share = Field(
        default=0.05, description="With `trust_region`: the present student's share in the mix (of logits)."
    )
    teacher_at_phase_start: Literal["reset", "carry"] = Field(
        default="reset",
        description="At the start of each round's training the self-teacher becomes a copy of the student again, or "
        "`carry`: goes on as it is. Carrying keeps short rounds from drifting.",
    )
    trace_share: Share = Field(
        default=0.02,
        description="Share of the rollouts whose divergence is written down token by token, for the inspector's "
        "page. Changes no weights. A traced rollout costs two more output layers and about 580 bytes a token.",
    )


class OptimizerSection(Section):
    """AdamW, and the moving average (EMA) that is the self-teacher."""

    learning_rate: float = Field(
        default=1e-5,
        gt=0,
        description="Learning rate after warm-up. The paper's 1e-5 is for all weights; adapters take more. Lower it "
        "first if rewards collapse.",
    )
    warmup_updates: int = Field(
        default=5,
        ge=0,
        description="Updates over which the rate rises in a straight line to its full height. Paper: 5.",
    )
    decay_updates: int = Field(
        default=0,
        ge=0,
        description="Updates after warm-up over which the rate falls in a straight line to `decay_to` of itself; 0: "
        'it stays. Counted from the start of a phase, with `at_phase_start = "carry"` from the start of the run.',
    )
    decay_to: Share = Field(default=0.1, description="Share of the learning rate that is left after the decay.")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decoupled weight decay. Paper: 0.01.")
    beta1: float = Field(default=0.9, gt=0, lt=1, description="AdamW: decay of the first moment.")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="AdamW: decay of the second moment.")
    clip_norm: float = Field(
        default=1.0,
        gt=0,
        description="A gradient with a larger norm is scaled down to it. The report has the norms: set it a little "
        "above the usual ones. Paper: 1.",
    )
    mini_batches: Positive = Field(
        default=1,
        description="Updates that a step's rollouts are dealt out to. More learn more from the same rollouts, but "
        "later ones are a little off-policy. Paper: 1.",
    )
    micro_batch_tokens: Positive | Literal["auto"] = Field(
        default="auto",
        description="Tokens of one forward pass, padding included. Changes memory and speed, not the gradient. "
        "`auto`: 1024 on a CPU; on GPUs what the plan of their memory has room for, the same for all students "
        "(docs/scaling.md).",
    )
    ema_rate: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="How fast the self-teacher follows: this share of the student goes into it at each update. "
        "Lower: a steadier teacher, slower progress. Paper: 0.05.",
    )
    at_phase_start: Literal["reset", "carry"] = Field(
        default="reset",
        description="At the start of each round's training: `reset` forgets AdamW's moments and warms up again; "
        "`carry` goes on with them. With few steps a round, carry.",
    )
    checkpoint_every: Positive = Field(
        default=1,
        description="Steps between two checkpoints of the trainer's whole state. Raise it where checkpoints are "
        "large (full weights). After a crash the steps since the last one are made again from their batches.",
    )
    offload: Literal["none", "moments"] = Field(
        default="none",
        description="`moments`: AdamW's two moments stay in the host's memory and visit the GPU for each update. "
        "Saves 8 bytes a trained parameter there and costs time; the weights come out the same. No effect on a CPU.",
    )
    max_skipped_updates: Positive = Field(
        default=3,
        description="An update whose loss or gradient is not a finite number is skipped; after so many in a row the "
        "run pauses.",
    )

    @property
    def pass_tokens(self) -> int:
        """`micro_batch_tokens`, and what is right for a CPU where nothing was planned."""
        return CPU_PASS_TOKENS if self.micro_batch_tokens == "auto" else self.micro_batch_tokens


class LoraSection(Section):
    """The adapter (LoRA) that training changes. It starts without effect, on the student's own weights, into which
    any adapter it came with is merged."""

    rank: Positive = Field(
        default=16,
        description="Rank. A version's size, its swap and a trainer's memory grow with it; at rank 64 an 8B model's "
        "version is 0.35 GB.",
    )
    scale: float = Field(default=2.0, gt=0, description="What others call alpha, divided by the rank.")
    first_layer: int = Field(
        default=0,
        ge=0,
        description="Adapt all linear layers of this block and those above; 0: of all blocks. Blocks below are not "
        "differentiated, which saves time and memory.",
    )
