"""The token-by-token divergence of one exchange, out of the file that the trainer wrote beside the step's batch.

What always holds: a trace is given only where it is of this run, student and step, and it is never read through a
link; where there is none the reason is said.
"""

from functools import lru_cache
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from services.inspector.http.views import ExchangeView, TraceView
from shared.contracts.traces import StepTrace, step_trace
from shared.errors import NotFoundError, StorageError, reason
from shared.files.store import resolve


class Traces:
    """The traces of `run` under its directory."""

    def __init__(self, run_dir: Path, run: str) -> None:
        self._run_dir = run_dir.resolve()
        self._run = run
        # A reader goes through one step's exchanges; by its time, as a step that is made again writes it again.
        self._read = lru_cache(maxsize=2)(self._parsed)

    def of(self, exchange: ExchangeView) -> TraceView:
        """Raises NotFoundError where this rollout was not traced, StorageError where the file is not what it says."""
        found = self._step(exchange.student, exchange.step)
        if found is None:
            raise NotFoundError(_absent(exchange))
        for rollout in found.rollouts:
            if (rollout.problem_id, rollout.sample) == (exchange.problem_id, exchange.sample):
                return TraceView(version=found.version, **rollout.model_dump())
        raise NotFoundError(
            f"this rollout is not among the {len(found.rollouts)} traced ones of its step: loss.trace_share was "
            f"{found.share:g}, and a rollout without demonstration and feedback has no loss to trace"
        )

    def divergences(self, student: str, step: int) -> dict[tuple[str, int], float]:
        """By problem and sample, the mean of a traced rollout's tokens in nats; none where the step has no traces.

        Raises StorageError as `of`.
        """
        found = self._step(student, step)
        rollouts = found.rollouts if found else ()
        return {
            (rollout.problem_id, rollout.sample): fmean(token.divergence for token in rollout.tokens)
            for rollout in rollouts
            if rollout.tokens
        }

    def _step(self, student: str, step: int) -> StepTrace | None:
        path = resolve(self._run_dir, step_trace(student, step))
        try:
            found = self._read(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise StorageError(f"cannot read {path}: {reason(error)}") from error
        expected = (self._run, student, step)
        if (found.run, found.student, found.step) != expected:
            raise StorageError(f"{path}: expected the traces of {expected}, it says it is of another step")
        return found

    def _parsed(self, path: Path, _changed_ns: int) -> StepTrace:
        return StepTrace.model_validate_json(path.read_bytes())


def _absent(exchange: ExchangeView) -> str:
    step = f"student {exchange.student}, step {exchange.step}"
    if not exchange.sealed:
        return f"the step is not trained yet ({step}); come back when its batch was applied"
    return (
        f"the step has no traces ({step}): none of its rollouts was drawn, or it is not trained yet; "
        f"`opcod replay {exchange.run} --student {exchange.student} --set loss.trace_share=1 --into <name>` makes them"
    )
