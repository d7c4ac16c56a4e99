"""What a trainer counts and measures. Labels are stages, reasons and outcomes only: their number stays small."""

from prometheus_client import Counter, Gauge

from shared.contracts.weights import StepMetrics

STAGE_SECONDS = Counter("opcod_trainer_stage_seconds", "Seconds spent, by stage of a step.", ["stage"])
STEPS = Counter("opcod_trainer_steps", "Steps by outcome (applied, failed, repeated).", ["outcome"])
AHEAD = Counter(
    "opcod_trainer_groups_ahead",
    "Groups trained on before their batch was sealed, by what became of it (kept, dropped).",
    ["outcome"],
)
TOKENS = Counter("opcod_trainer_tokens", "Response tokens trained on.")
SKIPPED = Counter("opcod_trainer_skipped_updates", "Updates not made because a loss or gradient was not finite.")
SAMPLES = Counter(
    "opcod_trainer_samples_limited", "Teacher prompts shortened, and samples rejected, by reason.", ["reason"]
)
STORAGE_RETRIES = Counter("opcod_trainer_storage_retries", "Checkpoints and versions that had to be written again.")
STEP = Gauge("opcod_trainer_step", "Last applied step.")
LOSS = Gauge("opcod_trainer_loss", "Loss of the last step.")
GRAD_NORM = Gauge("opcod_trainer_grad_norm", "Gradient norm of the last step.")
DELTA_LOGPROB = Gauge("opcod_trainer_delta_logprob_nats", "Mean |difference of log-probs| of engine and trainer.")
CLIPPED = Gauge("opcod_trainer_clipped_share", "Share of tokens whose importance weight was cut, last step.")
EFFECTIVE = Gauge("opcod_trainer_effective_sample_share", "Effective sample size over tokens, last step.")
ACTIVE = Gauge("opcod_trainer_active_share", "Share of rollouts with loss, last step.")
TREE_TOKENS = Gauge(
    "opcod_trainer_tree_tokens", "Largest prefix tree of rows that share a pass, in tokens; 0: every row goes alone."
)
EARLY = Gauge("opcod_trainer_early_batches", "Sealed batches that wait for an earlier one.")


def count_step(step_metrics: StepMetrics, step: int) -> None:
    """An applied step."""
    for stage, seconds in step_metrics.seconds.items():
        STAGE_SECONDS.labels(stage).inc(seconds)
    STEPS.labels("applied").inc()
    TOKENS.inc(step_metrics.tokens)
    SKIPPED.inc(step_metrics.skipped_updates)
    STEP.set(step)
    LOSS.set(step_metrics.loss)
    GRAD_NORM.set(step_metrics.grad_norm)
    DELTA_LOGPROB.set(step_metrics.delta_logprob)
    CLIPPED.set(step_metrics.clipped_share)
    EFFECTIVE.set(step_metrics.effective_sample_share)
    ACTIVE.set(step_metrics.active_share)
