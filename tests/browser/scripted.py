"""A whole run on the scripted engine, in the inspector's store: feedback of every kind, revisions, gates, a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.inspector.ingest import Ingest
from services.inspector.store.sealed import SealedBatches
from shared.clock import SystemClock
from tests.browser.stand import Stand, new_stand
from tests.fakes.broker import RUN
from tests.fakes.scripted_run import scripted_run

SCRIPTS = {"a": {"bad_feedback_share": 0.3}, "b": {"bad_feedback_share": 0.3}}


@contextmanager
def scripted_stand(run_dir: Path, *more: str, steps: int = 3) -> Iterator[Stand]:
    """more: settings of the run. steps: of each round."""
    settings = [f"run.steps_per_round={steps}", "gate.mode=always", "feedback.revise_share=1", *more]
    bench = scripted_run(run_dir, SCRIPTS, *settings)
    bench.finish()
    with new_stand(run_dir, run=RUN, settings=bench.settings) as stand:
        sealed = SealedBatches(run_dir, RUN)
        ingest = Ingest(
            bench.workers, stand.store, sealed, name="inspector/0", clock=SystemClock(), silent_s=60, block_s=0
        )
        for _ in range(20):
            ingest.pull()
        stand.log.state = bench.workers.load_state()
        yield stand
