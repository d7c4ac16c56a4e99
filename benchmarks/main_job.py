"""Wall time and memory of `opcod run`: python benchmarks/main_job.py --preset smoke --runs-dir /tmp/runs …

Memory is the largest sum of the proportional set sizes (PSS) of the launcher and all its descendants, sampled
twice a second, so pages that processes share count once. Linux only.
"""

import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.5


@dataclass
class Peak:
    """The largest sum seen, with each process's share at that moment, in bytes."""

    total: int = 0
    parts: dict[str, int] | None = None

    def sample(self, root: psutil.Process) -> None:
        parts: dict[str, int] = {}
        for process in [root, *root.children(recursive=True)]:
            try:
                command = process.cmdline()
                name = next((part for part in command if part.startswith("services.")), "")
                student = process.environ().get("OPCOD_STUDENT", "") if name else ""
                label = f"{name} {student}".strip() or process.name()
                parts[label] = parts.get(label, 0) + process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if sum(parts.values()) > self.total:
            self.total, self.parts = sum(parts.values()), parts


def main() -> int:
    started = time.monotonic()
    run = subprocess.Popen([sys.executable, "-m", "opcod.main", "run", *sys.argv[1:]])
    root, peak = psutil.Process(run.pid), Peak()
    while run.poll() is None:
        peak.sample(root)
        time.sleep(SAMPLE_S)
    print(f"\nexit code {run.returncode}; wall time {time.monotonic() - started:.1f} s")
    print(f"largest summed PSS {peak.total / 2**30:.2f} GiB, of which:")
    for name, size in sorted((peak.parts or {}).items(), key=lambda item: -item[1]):
        print(f"  {name:<24} {size / 2**20:7.0f} MiB")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
