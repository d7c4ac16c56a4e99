"""The way in which threads look, again and again, for what nobody tells of."""

import threading
from collections.abc import Callable

import structlog

from services.inspector.store.database import DamagedStoreError
from shared.errors import StorageError

log = structlog.get_logger()


def look_again(look: Callable[[], None], stopping: threading.Event, *, every_s: float, kept: str) -> None:
    """Call `look` every `every_s` until `stopping`. kept: what is not kept where the store fails, for the log.

    Raises DamagedStoreError.
    """
    while not stopping.is_set():
        try:
            look()
        except DamagedStoreError:
            raise  # it stays damaged; the next start begins a new one
        except StorageError as error:
            # The store's own trouble, which ingest tells; here it is tried again.
            log.warning(f"{kept} are not kept", error=str(error))
        stopping.wait(every_s)
