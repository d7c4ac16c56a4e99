"""Every Redis key of a run, in one place, and the names of queues, groups, leases and payload hashes.

What always holds: all keys of a run share the hash tag `{<run>}`, so that a script may touch any of them in a
cluster too. Queues, payload keys and leases are named without the prefix everywhere outside the bus.
"""

import re
from collections.abc import Sequence

from shared.contracts.jobs import JobKind
from shared.errors import ConfigError

STUDENTS = "students"
BROKER = "broker"
TRAINER = "trainer"

RESULTS = "results"

LEADER = "broker.leader"
"""Name of the broker's lease; a trainer's lease is named by its student (`trainer_lease`)."""

CARD = "card"
"""Name of the lease on the GPU that engines and trainers take turns on (`turns.py`)."""

# No brace, which would end the hash tag, and no `*`, `?` or `[`, which a pattern would read.
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def jobs(student: str, kind: JobKind | str) -> str:
    """Queue of one kind of job for one student: `jobs:a:rollout`."""
    return f"jobs:{student}:{JobKind(kind).value}"


def train(student: str) -> str:
    """Queue of sealed batches for one student's trainer: `train:a`."""
    return f"train:{student}"


def group_of(queue: str) -> str:
    """The one group that reads `queue`. Raises ConfigError if it is not a queue's name."""
    groups = {"jobs": STUDENTS, RESULTS: BROKER, "train": TRAINER}
    kind = queue.partition(":")[0]
    if kind not in groups:
        raise ConfigError(f"expected a queue such as jobs:a:rollout, results or train:a, got {queue!r}")
    return groups[kind]


def queues_of(students: Sequence[str]) -> list[tuple[str, str]]:
    """Every work queue of a run with these students, with its group."""
    queues = [RESULTS, *(train(s) for s in students), *(jobs(s, kind) for s in students for kind in JobKind)]
    return [(queue, group_of(queue)) for queue in queues]


def trainer_lease(student: str) -> str:
    """Name of the lease that a student's trainer holds; `announce_version` checks its token."""
    return student


PAYLOADS = "res:"
"""What the key of every payload hash begins with."""


def step_payloads(student: str, step: int) -> str:
    """Payload hash of one step of a tutee: `res:a:s17`."""
    return f"{PAYLOADS}{student}:s{step}"


def eval_payloads(student: str, round_: int, split: str) -> str:
    """Payload hash of one evaluation: `res:a:r2.validation`."""
    return f"{PAYLOADS}{student}:r{round_}.{split}"


def input_field(job_id: str) -> str:
    """Field of a job's input in its payload hash."""
    return f"{job_id}.in"


def output_field(job_id: str) -> str:
    """Field of a job's output, in the hash of its input."""
    return f"{job_id}.out"


class Keys:
    """Full Redis keys of one run. Raises ConfigError if `run` has characters that a key pattern would read."""

    def __init__(self, run: str) -> None:
        if not _RUN.fullmatch(run):
            raise ConfigError(
                f"expected a run id of at most 100 letters, digits, '.', '_' or '-', the first a letter or digit, "
                f"got {run!r}"
            )
        self.run = run
        # In braces stands the hash tag: all keys of a run lie in one slot of a cluster.
        self.prefix = f"opcod:{{{run}}}:"
        self.state = self.prefix + "state"
        self.revision = self.prefix + "revision"
        self.events = self.prefix + "events"
        self.dead_letters = self.prefix + "dlq"
        self.heartbeats = self.prefix + "hb:"

    def queue(self, queue: str) -> str:
        """Stream of a queue."""
        return self.prefix + queue

    def attempts(self, queue: str) -> str:
        """Hash of started handlings by entry id."""
        return f"{self.prefix}attempts:{queue}"

    def payload(self, key: str) -> str:
        """Hash behind a PayloadRef's key."""
        return self.prefix + key

    def lease(self, name: str) -> str:
        """Who holds a lease: `<token>:<holder>`, with a time to live."""
        return self.prefix + ("leader" if name == LEADER else f"lease:{name}")

    def token(self, name: str) -> str:
        """The highest fencing token ever handed out for a lease; never expires."""
        return self.prefix + ("fence" if name == LEADER else f"token:{name}")

    def line(self, name: str) -> str:
        """Who waits for a lease in turn, by when they came."""
        return f"{self.prefix}line:{name}"

    def asked(self, name: str) -> str:
        """When each of those asked last."""
        return f"{self.prefix}asked:{name}"

    def weights_head(self, student: str) -> str:
        """How many steps the newest announced version of a student has."""
        return f"{self.prefix}weights:head:{student}"

    def serve(self, student: str) -> str:
        """ServeSet of a student."""
        return f"{self.prefix}serve:{student}"

    def heartbeat(self, service: str, replica: str) -> str:
        return f"{self.heartbeats}{service}:{replica}"
