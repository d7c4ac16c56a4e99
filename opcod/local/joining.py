"""What a run does on each of its nodes but the first: starts the services that are placed there, and watches them.

What always holds: nothing is started before node 0's Redis answers; when node 0 takes its meeting back, all of it is
ended, and then the address is; when it begins another one, they meet again; a Redis that is gone for long ends it, too.
"""

import time
from collections.abc import Callable
from pathlib import Path

from opcod.local.deployment import node_lock, services_of
from opcod.local.gpus import starts
from opcod.local.launcher import silent
from opcod.local.nodes import (
    JOIN_TIMEOUT_S,
    Meeting,
    absent,
    address_file,
    groups_of,
    placement,
    read_meeting,
    write_address,
)
from opcod.local.processes import Launch, launch
from opcod.local.services import POLL_S, NodeServices, Progress, Told
from shared.config.loading import settings_of
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError, StoppedError, UnavailableError
from shared.network import address_towards

MEET_S = 24 * 3600.0
"""That node 0 has until it is up: it may fetch models over a slow line, and fine-tune specialists, before."""

LOST_S = 120.0
"""Without an answer from Redis, which node 0 starts again in seconds; then node 0 counts as gone."""

REMIND_S = 60.0
WATCH_S = 1.0


def meet(run_dir: Path, progress: Progress, stopped: Callable[[], bool], timeout_s: float = MEET_S) -> Meeting:
    """Node 0's meeting, once its Redis answers. Raises UnavailableError after `timeout_s`, StoppedError if asked to."""
    begun = time.monotonic()
    said = -REMIND_S
    while True:
        if stopped():
            raise StoppedError("stopped while waiting for node 0")
        meeting, unread = None, f"no meeting in {run_dir}"
        try:
            meeting = read_meeting(run_dir)
        except UnavailableError as error:
            unread = str(error)
        # It may be left over from a launcher that was killed. A Redis that is not the launcher's own answers all the
        # same; this node then comes in vain until another meeting takes its place.
        reason = unread if meeting is None else _silent(meeting)
        if meeting is not None and reason is None:
            return meeting
        now = time.monotonic()
        if now - begun > timeout_s:
            raise UnavailableError(
                f"expected node 0 to be up within {timeout_s:.0f} s: {reason}; start it by `opcod run` with "
                "resources.nodes and --rendezvous, on a file system that both nodes see"
            )
        if now - said > REMIND_S:
            progress(f"waiting for node 0 ({reason})")
            said = now
        time.sleep(POLL_S)


def join_run(
    paths: Paths,
    node: int,
    address: str | None,
    say: Progress,
    stopped: Callable[[], bool],
    start_process: Launch = launch,
    lost_s: float = LOST_S,
) -> None:
    """Do what is placed on this node, until node 0 has ended the run, however often it begins again. address: as of
    `JoinedNode.start`. lost_s: without an answer from node 0's Redis, after which it counts as gone.

    Raises as `meet` and `JoinedNode`, and ConfigError where another process is this node.
    """
    while True:
        meeting = meet(paths.run_dir, say, stopped)
        joined = JoinedNode(paths, node, meeting, stopped, start_process)
        with node_lock(paths.run_dir, node):
            joined.work(say, address, lost_s)
        if read_meeting(paths.run_dir) is None:
            return
        say("node 0 has begun again")


class JoinedNode:
    """This node at one meeting; `node_lock` is held meanwhile."""

    def __init__(
        self,
        paths: Paths,
        node: int,
        meeting: Meeting,
        stopped: Callable[[], bool],
        start_process: Launch,
    ) -> None:
        """Raises ConfigError where the run has no such node, or the node no room for what is placed there."""
        settings: RunSettings = settings_of(paths.run_dir)
        if not 0 < node < settings.resources.nodes:
            raise ConfigError(
                f"--node: expected 1 to {settings.resources.nodes - 1}, as resources.nodes of run {paths.run} says, "
                f"got {node}; node 0 is where `opcod run` is"
            )
        self._paths = paths
        self._settings = settings
        self._node = node
        self._meeting = meeting
        self._stopped = stopped
        self._services = NodeServices(paths, settings, "run", node, self._is_enough, start_process)

    def work(self, say: Progress, address: str | None, lost_s: float) -> None:
        """From coming to the end of the meeting, after which nothing of this node is left.

        Raises as `start` and `until_over`.
        """
        try:
            here = self.start(say, address)
            say(f"node {self._node} of run {self._paths.run}: {', '.join(here)}")
            self.until_over(say, lost_s)
        except StoppedError:
            self.stop()
            # A batch system tells all nodes to end at once: by now node 0 has ended the run, or is up without this one.
            if not self.is_over():
                raise
        finally:
            self.stop()

    def start(self, say: Progress, address: str | None) -> list[str]:
        """The services that are up. address: at which other nodes reach this one; None: the one that faces node 0.

        Raises as `NodeServices.bring_up`, StoppedError also once the meeting is over.
        """
        own = address or address_towards(self._meeting.address)
        here = [name for name in services_of(self._settings, "run") if self._services.is_here(name)]
        # Of a meeting before: node 0 looks for them once this node has come.
        self._services.forget_urls([name for name in here if self._services.shows_here(name)])
        write_address(self._paths.run_dir, self._node, self._meeting, own)
        # Where a trainer begins that has ranks here.
        firsts = sorted({on[0] for on in placement(self._settings).values() if self._node in on} - {0})
        self._services.wait(
            "the other nodes", lambda: absent(self._paths.run_dir, firsts, self._meeting), JOIN_TIMEOUT_S
        )
        told = Told(
            self._meeting.redis_url,
            self._meeting.redis_password_file,
            self._meeting.key_file,
            own,
            groups_of(self._settings, self._node, self._meeting, self._paths.run_dir),
        )
        # Broker and inspector are node 0's, which no placement names.
        for names in starts(self._settings, self._services.gpus, here):
            self._services.bring_up(names, told, lambda name: say(f"starting: {name}"))
        return here

    def until_over(self, say: Progress, lost_s: float) -> None:
        """Start again what ends, until the meeting is over.

        Raises StoppedError if asked to, ProcessFailedError if something does not stay up, and UnavailableError once
        node 0 is lost.
        """
        answered_s = time.monotonic()
        while not self.is_over():
            if self._stopped():
                raise StoppedError(f"stopped while run {self._paths.run} goes on; `opcod join` comes back to it")
            if _silent(self._meeting) is None:
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s > lost_s:
                raise UnavailableError(f"the Redis of node 0 has not answered for {lost_s:.0f} s; this node ends, too")
            for name in self._services.watch():
                say(f"{name} ended and was started again")
            time.sleep(WATCH_S)

    def is_over(self) -> bool:
        """Whether node 0 has ended the run, or begun another meeting."""
        try:
            found = read_meeting(self._paths.run_dir)
        except UnavailableError:
            return False  # a file system that does not answer says nothing of the run; a lost Redis does
        return found is None or found.id != self._meeting.id

    def stop(self) -> None:
        self._services.supervisor.stop()
        address_file(self._paths.run_dir, self._node).unlink(missing_ok=True)

    def _is_enough(self) -> bool:
        return self._stopped() or self.is_over()


def _silent(meeting: Meeting) -> str | None:
    """Why node 0's Redis does not answer, or None."""
    file = meeting.redis_password_file
    # The next launcher makes another one; until then it is as if none were up.
    if file is not None and not file.exists():
        return f"the password of its Redis, {file}, is not there"
    return silent(meeting.redis_url, meeting.redis_password_file)
