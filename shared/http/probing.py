"""`python -m shared.http.probing`: is the service of this container ready? Exit code 0 or 1; what a health check runs.

The service listens on OPCOD_PORT; a container without one serves nothing, and is well. With addresses as arguments it
asks the services there instead, with `--wait SECONDS` until all are ready or so much time has passed.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from shared.http.addresses import http_url

# Less than the five seconds after which compose and a cluster kill a probe, which then would not say what it lacks.
TIMEOUT_S = 4.0
PAUSE_S = 1.0


def own_address() -> list[str]:
    """Of this container's service, if it has one."""
    port = os.environ.get("OPCOD_PORT")
    host = os.environ.get("OPCOD_HOST", "127.0.0.1")
    return [http_url(host, int(port))] if port else []


def problems(addresses: Sequence[str], wait_s: float = 0.0) -> list[str]:
    """Why services there are not ready, after they were asked for `wait_s` seconds; empty once all of them are."""
    deadline = time.monotonic() + wait_s
    while reasons := [reason for address in addresses if (reason := problem(address)) is not None]:
        if time.monotonic() + PAUSE_S > deadline:
            return reasons
        time.sleep(PAUSE_S)
    return []


def problem(address: str) -> str | None:
    """Why the service there is not ready, or None."""
    url = f"{address}/readyz"
    try:
        # Without proxies of the environment, and by urllib: a probe is a process every few seconds, and a client that
        # takes long to import costs more than it asks.
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S):
            return None
    except HTTPError as error:
        return f"expected a service that is ready at {url}: {_words_of(error)}"
    except (URLError, OSError) as error:
        return f"expected a service that is ready at {url}: {error}"


def _words_of(answer: HTTPError) -> str:
    """What the service says of itself, else the status."""
    try:
        with answer:
            return f"{answer}: {json.load(answer)['reason']}"
    except (OSError, ValueError, LookupError, TypeError):
        return str(answer)


def _arguments() -> tuple[list[str], float]:
    """Addresses, and how long to wait for them."""
    if len(sys.argv) == 1:
        return own_address(), 0.0
    # Not for health checks, which have none, and would import it every few seconds.
    import argparse

    parser = argparse.ArgumentParser(prog="probing", description="Ask services whether they are ready.")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="until all are, at most")
    parser.add_argument("addresses", nargs="+", help="such as http://trainer-a:8200")
    said = parser.parse_args()
    return said.addresses, said.wait


if __name__ == "__main__":
    asked, wait_s = _arguments()
    if reasons := problems(asked, wait_s):
        waited = [f"waited {wait_s:g} s; the log of a service that is not ready says why"] if wait_s else []
        sys.exit("\n".join((*waited, *reasons)))
