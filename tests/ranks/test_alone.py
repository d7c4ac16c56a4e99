"""A trainer of one rank: nothing of what ranks need is loaded or set up in its process."""

import subprocess
import sys
from pathlib import Path

from tests.integration.test_trainer_service import prepared
from tests.unit.trainer.ground import RUN, seal_steps

PROGRAM = """
import sys
import threading
from pathlib import Path

import torch

from services.trainer.app import build_trainer, main
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import training_config
from shared.config.loading import settings_of
from shared.contracts.batches import BatchSealed
from shared.files.store import LocalStore
from tests.unit.trainer.ground import OpenFence

run_dir, run, sealed = Path(sys.argv[1]), sys.argv[2], BatchSealed.model_validate_json(sys.argv[3])
config, store = training_config(settings_of(run_dir), run, run_dir, "a"), LocalStore(run_dir)
checkpoints = Checkpoints(store, run=run, student="a", base_sha256=config.base.sha256)
trainer = build_trainer(config, store, checkpoints, threading.Event())
trainer.restore()
trainer.apply(sealed, OpenFence())
loaded = [name for name in sys.argv[4:] if name in sys.modules]
print(trainer.step, torch.distributed.is_initialized(), loaded)
"""

# Much of torch.distributed comes with torch and transformers themselves; this does not.
FOR_RANKS = (
    "services.trainer.model.sharded",
    "services.trainer.ranks.launching",
    "services.trainer.ranks.processes",
    "torch.distributed.launcher",
)


def test_one_rank_loads_and_sets_up_nothing_for_several(tmp_path: Path, tiny_dir: Path) -> None:
    run_dir = prepared(tmp_path / "run", tiny_dir)
    (sealed,) = seal_steps(run_dir, tiny_dir, 1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run_dir), RUN, sealed.model_dump_json(), *FOR_RANKS],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 False []"
