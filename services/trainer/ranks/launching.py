"""The process that starts a trainer's ranks, and ends all of them when one has ended: torch's elastic agent.

What always holds: it restarts nothing itself. Whoever started the trainer sees one process, which ends with the exit
code of the rank that failed first, and starts it again or does not, as with a trainer of one rank. A rank sees one GPU.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence

import structlog
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shared.errors import ConfigError
from shared.gpus import VISIBLE, gpus_here, named
from shared.http.serving import PARENT_VARIABLE

# Of what the agent sets, the one that nothing else does.
_BY_AGENT = "TORCHELASTIC_RUN_ID"
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

MONITOR_S = 0.5
"""Between two looks at the ranks."""

GRACE_S = 25.0
"""Less than a supervisor gives us: a rank that is stopped must be killed by us before we are."""

log = structlog.get_logger()


def is_rank(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank that an agent has started."""
    return _BY_AGENT in environ


def cards_for(ranks: int) -> int:
    """How many GPUs there are, maybe none. Raises ConfigError where there are some, but not one for each rank."""
    cards = gpus_here()
    if 0 < cards < ranks:
        raise ConfigError(
            f"trainer.ranks: expected a GPU for each of {ranks} ranks, this process was given {cards}; give it more "
            "(resources.gpus), or set trainer.ranks lower"
        )
    names = named(os.environ)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{VISIBLE}: expected each GPU once, got {','.join(names)}; two ranks of one trainer cannot share one"
        )
    return cards


def launch(module: str, run_id: str, ranks: int, arguments: Sequence[str] = ()) -> int:
    """Run `python -m <module> <arguments>` as each of `ranks` ranks until one ends or SIGTERM comes; the exit code.

    Raises ConfigError as `cards_for`.
    """
    cards = cards_for(ranks)
    # Of the ranks: they end with this process.
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # All of them are here. They trust each other, so nobody else may reach them.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", _LOOPBACK)
    with tempfile.TemporaryDirectory(prefix="opcod-ranks-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=run_id,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=MONITOR_S,
            shutdown_timeout=int(GRACE_S),
            # Each sees its own one as the first.
            virtual_local_rank=cards > 0,
            # Their output is ours.
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            rank, first = error.get_first_failure()
            log.error("a rank has ended, and so do all", rank=rank, exit_code=first.exitcode)
            return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
        except SignalException as error:
            return 0 if error.sigval == signal.SIGTERM else 128 + error.sigval
    return 0
