"""A replica that joins a run by hand, as docs/engines.md has it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from opcod.local.deployment import KEY_FILE
from tests.fakes.deployment import RunningDeployment
from tests.fakes.waiting import WAIT_S


class Replica:
    """One more `python -m services.student` for a run that is up. files: the run's directory as it sees it."""

    def __init__(self, deployment: RunningDeployment, student: str, name: str, files: Path | None = None) -> None:
        run_dir = deployment.paths.run_dir
        known = deployment.launcher.deployment
        assert known is not None
        self.name = name
        self.log = run_dir / "logs" / f"student-{student}-{name}.log"
        environment = os.environ | {
            "OPCOD_RUN": deployment.paths.run,
            "OPCOD_RUN_DIR": str(files or run_dir),
            "OPCOD_CACHE_DIR": str(deployment.paths.cache_dir),
            "OPCOD_REDIS_URL": known.redis_url,
            "OPCOD_KEY_FILE": str(run_dir / KEY_FILE),
            "OPCOD_URL_FILE": str(run_dir / "logs" / f"student-{student}-{name}.url"),
            "OPCOD_STUDENT": student,
            "OPCOD_REPLICA": name,
        }
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "services.student"]
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def count(self, event: str) -> int:
        """How often it logged that."""
        return self.log.read_text().count(f'"{event}"')

    def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self._process.wait(timeout=WAIT_S)
