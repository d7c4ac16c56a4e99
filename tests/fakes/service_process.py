"""A service as a process of its own, as a launcher would start it, and its address once it has one."""

import os
import sys
from pathlib import Path

from tests.fakes.forked import Forked
from tests.fakes.waiting import WAIT_S, wait_until


def start_service(
    service: str,
    *,
    run: str,
    run_dir: Path,
    redis_url: str,
    replica: str = "0",
    deadline_s: float = WAIT_S,
    python: Path = Path(sys.executable),
    **environment: str,
) -> tuple[Forked, str]:
    """Process and URL of `python -m services.<service>`; `environment` is added. Its output goes to <service>.log.

    deadline_s: for it to listen. python: of the processes that it starts itself.
    """
    url_file = run_dir / f"{service}-{replica}.url"
    url_file.unlink(missing_ok=True)
    told = os.environ | {
        "OPCOD_RUN": run,
        "OPCOD_RUN_DIR": str(run_dir),
        "OPCOD_CACHE_DIR": str(run_dir / "cache"),
        "OPCOD_REDIS_URL": redis_url,
        "OPCOD_REPLICA": replica,
        "OPCOD_URL_FILE": str(url_file),
        **environment,
    }
    process = Forked(f"services.{service}", (), told, run_dir / f"{service}.log", executable=str(python))
    listening = f"the URL of the {service}"
    wait_until(lambda: url_file.exists() and url_file.read_text() != "", listening, deadline_s=deadline_s)
    return process, url_file.read_text()
