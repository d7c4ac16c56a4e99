"""Stand-ins of SLURM's commands, as far as a job uses them: programs in a directory that comes first in PATH."""

import re
import signal
from pathlib import Path

SRUN = """\
#!/bin/bash
# One task a node, all on this machine; a signal reaches all of them, and one that fails ends the others.
shift
tasks=()
for ((node = 0; node < {nodes}; node++)); do
  OPCOD_ADDRESS="127.0.0.$((node + 1))" SLURM_NODEID=$node "$@" &
  tasks+=($!)
done
trap 'kill -TERM "${{tasks[@]}}" 2> /dev/null' TERM
worst=0
for ((left = {nodes}; left > 0;)); do
  code=0
  wait -n "${{tasks[@]}}" || code=$?
  if [ "$code" -gt 128 ] && [ -n "$(jobs -r)" ] && [ "$(jobs -r | wc -l)" = "$left" ]; then continue; fi
  left=$((left - 1))
  if [ "$code" -gt "$worst" ]; then worst=$code; kill -TERM "${{tasks[@]}}" 2> /dev/null; fi
done
exit "$worst"
"""

SCONTROL = """\
#!/bin/bash
echo "$@" >> "{log}"
"""


def write_slurm(directory: Path, nodes: int) -> Path:
    """Write `srun` of so many nodes, `scontrol` and `hostname` there; the file of what scontrol was told."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "scontrol.log"
    programs = {
        "srun": SRUN.format(nodes=nodes),
        "scontrol": SCONTROL.format(log=log),
        "hostname": "#!/bin/bash\necho 127.0.0.1 10.0.0.1\n",
    }
    for name, text in programs.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return log


def signal_before_the_limit(script: Path) -> signal.Signals:
    """Which one SLURM sends the script, and it alone, as its `--signal` asks for."""
    asked = re.search(r"^#SBATCH --signal=B:(\w+)@\d+$", script.read_text(), re.MULTILINE)
    assert asked is not None, "without it none comes"
    return signal.Signals[f"SIG{asked[1]}"]
