"""Going on with a run that stood: who resumes a paused run has dealt with the reason."""

import time

from opcod.local.deployment import Deployment
from opcod.talk.client import Client
from shared.contracts.acting import Accepted
from shared.contracts.run import RunState
from shared.errors import UnavailableError

DEADLINE_S = 30.0
POLL_S = 0.1


def end_pause(deployment: Deployment) -> str | None:
    """Resume the run if it is paused, and wait until it is not; returns the reason it was paused for.

    Raises UnavailableError if the broker does not take it up in time.
    """
    client = Client(deployment)
    try:
        reason = _state(client, deployment).paused
        if reason is None:
            return None
        client.broker("POST", f"/v1/runs/{deployment.run}/resume", Accepted)
        deadline = time.monotonic() + DEADLINE_S
        while _state(client, deployment).paused == reason:
            if time.monotonic() > deadline:
                raise UnavailableError(f"run {deployment.run} is still paused after {DEADLINE_S:.0f} s: {reason}")
            time.sleep(POLL_S)
        return reason
    finally:
        client.close()


def _state(client: Client, deployment: Deployment) -> RunState:
    return client.broker("GET", f"/v1/runs/{deployment.run}", RunState)
