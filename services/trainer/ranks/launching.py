"""The process that starts a trainer's ranks, and ends all of them when one has ended: torch's elastic agent.

What always holds: it restarts nothing itself. Whoever started the trainer sees one process, which ends with the exit
code of the rank that failed first, and starts it again or does not, as with a trainer of one rank. A rank sees one GPU.

Where ranks are on several nodes each node has such an agent. They meet at the first one's, whose ranks come first, and
each restarts or does not as whoever started it there decides; one that comes again waits for the others to.
"""

import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import stamina
import structlog
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from shared.config.environment import ServiceEnvironment
from shared.errors import ConfigError, UnavailableError, reason, shown
from shared.gpus import VISIBLE, gpus_here, named
from shared.network import interface_towards
from shared.parents import PARENT_VARIABLE

# Of what the agent sets, the one that nothing else does.
_BY_AGENT = "TORCHELASTIC_RUN_ID"
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"

MONITOR_S = 0.5
"""Between two looks at the ranks."""

GRACE_S = 25.0
"""Less than a supervisor gives us: a rank that is stopped must be killed by us before we are."""

MEET_S = 900
"""That one node's agent waits for the others: they may have a model to read first, or a supervisor's pause to make."""

TELL_S = 60.0
"""Between two lines about whom it waits for."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Node:
    """One of the machines that a trainer's ranks are on. number: from 0. rendezvous: host and port of the first."""

    number: int = 0
    of: int = 1
    rendezvous: tuple[str, int] = ("127.0.0.1", 0)

    def ranks(self, ranks: int) -> int:
        """How many of all `ranks` are on it. Raises ConfigError where they cannot be shared out equally."""
        if ranks % self.of:
            raise ConfigError(
                f"trainer.ranks: expected a multiple of the {self.of} nodes that this trainer is on, got {ranks}; "
                "every node has equally many"
            )
        return ranks // self.of


def node_of(environment: ServiceEnvironment) -> Node:
    """Where this process is. Raises ConfigError."""
    if environment.nodes == 1:
        return Node()
    if environment.node_rank >= environment.nodes:
        raise ConfigError(
            f"OPCOD_NODE_RANK: expected 0 to {environment.nodes - 1}, as OPCOD_NODES says, got {environment.node_rank}"
        )
    host, _, port = (environment.rendezvous or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"OPCOD_RENDEZVOUS: expected host:port of the first of {environment.nodes} nodes, such as 10.0.0.5:29400, "
            f"got {shown(environment.rendezvous)}; OPCOD_NODES=1 is a trainer on this one alone"
        )
    return Node(environment.node_rank, environment.nodes, (host, int(port)))


def is_rank(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank that an agent has started."""
    return _BY_AGENT in environ


def cards_for(ranks: int) -> int:
    """How many GPUs there are, maybe none. ranks: on this machine. Raises ConfigError where there are some, but not one
    for each rank."""
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


def interface_to_first(host: str) -> str | None:
    """As `interface_towards`, once there is a way: a cluster may name the first node after it has started this one.

    Raises UnavailableError where there is none within MEET_S.
    """
    told = -math.inf

    def again(error: Exception) -> bool:
        nonlocal told
        if isinstance(error, UnavailableError) and time.monotonic() - told >= TELL_S:
            told = time.monotonic()
            log.warning("waiting for the first node", reason=str(error), at_most_s=MEET_S)
        return isinstance(error, UnavailableError)

    caller = stamina.RetryingCaller(attempts=None, timeout=MEET_S, wait_initial=0.1, wait_max=5.0, wait_jitter=0)
    return caller(again, interface_towards, host)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """As torch's agent, which takes the signal over: the first process of a container is told in vain, unless it
    listens."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def launch(module: str, run_id: str, ranks: int, arguments: Sequence[str] = (), node: Node = Node()) -> int:
    """Run `python -m <module> <arguments>` as each of `ranks` ranks until one ends or SIGTERM comes; the exit code.

    node: this one of those that the ranks are on. Raises ConfigError as `cards_for`, and UnavailableError where the
    first node is not to be found within MEET_S.
    """
    here = node.ranks(ranks)
    cards = cards_for(here)
    # Of the ranks: they end with this process.
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # They trust each other, so nobody else may reach them; by themselves they listen where the host's name leads, which
    # on many machines is nowhere.
    with _told_to_end():
        interface = _LOOPBACK if node.of == 1 else interface_to_first(node.rendezvous[0])
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    with tempfile.TemporaryDirectory(prefix="opcod-ranks-") as logs:
        config = LaunchConfig(
            min_nodes=node.of,
            max_nodes=node.of,
            nproc_per_node=here,
            run_id=run_id,
            # With several nodes c10d would number them by their addresses, and rank 0 is to be on the first.
            rdzv_backend="c10d" if node.of == 1 else "static",
            rdzv_endpoint=f"{node.rendezvous[0]}:{node.rendezvous[1]}",
            rdzv_configs={} if node.of == 1 else {"rank": node.number, "timeout": MEET_S},
            local_addr="127.0.0.1" if node.of == 1 else None,
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
        except DistError as error:
            raise UnavailableError(
                f"expected all {node.of} nodes of this trainer at {config.rdzv_endpoint}: {reason(error)}; each starts "
                f"it with its own OPCOD_NODE_RANK, and waits {MEET_S} s for the others"
            ) from error
    return 0
