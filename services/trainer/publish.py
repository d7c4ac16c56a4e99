"""From a checkpoint to a version that students load.

Order: checkpoint, then the version's files, then the announcement. The checkpoint is the one point from which a
step counts as applied. A process killed
- before it: nothing of the step is visible; it is made again from the checkpoint before, and, since training is
  deterministic on one machine, comes out the same;
- after it, before the files: they are written from the checkpoint, byte for byte, and nothing is trained again;
- after the files, before the announcement: the directory exists, is verified and adopted;
- after the announcement, before the message is acknowledged: it is announced again; the head does not move, and
  the broker knows the report by its key.
Files before checkpoint would leave a version without the state that made it: were it made again on another machine
or thread count, its bytes would differ from those under its name, which is immutable.
"""

from services.trainer.checkpoint import CheckpointManifest, Checkpoints
from shared.contracts.ids import weights_uri
from shared.contracts.weights import WeightsPublished
from shared.files.store import LocalStore
from shared.obs.faults import fault_point


def publish(store: LocalStore, checkpoints: Checkpoints, checkpoint: CheckpointManifest) -> WeightsPublished:
    """Write the version of a checkpoint, or adopt it where it exists; what is to be announced.

    Raises StorageError if it cannot be written, or exists with other content.
    """
    uri = weights_uri(checkpoint.student, checkpoint.step)
    files = checkpoints.version_files(checkpoint)
    fault_point("trainer.before-publish")
    sha256 = store.write_directory(uri, files, checkpoint.weights.model_dump_json().encode())
    fault_point("trainer.after-publish")
    return WeightsPublished(
        student=checkpoint.student,
        version=checkpoint.weights.version,
        step=checkpoint.step,
        uri=uri,
        manifest_sha256=sha256,
    )
