"""`python -m shared.http.probing`: is the service of this container ready? Exit code 0 or 1; what a health check runs.

The service listens on OPCOD_PORT; a container without one serves nothing, and is well. With addresses as arguments it
asks the services there instead.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from shared.http.addresses import http_url

# Less than the five seconds after which compose and a cluster kill a probe, which then would not say what it lacks.
TIMEOUT_S = 4.0


def own_address() -> list[str]:
    """Of this container's service, if it has one."""
    port = os.environ.get("OPCOD_PORT")
    host = os.environ.get("OPCOD_HOST", "127.0.0.1")
    return [http_url(host, int(port))] if port else []


def problem(address: str) -> str | None:
    """Why the service there is not ready, or None."""
    url = f"{address}/readyz"
    try:
        # Without proxies of the environment, and by urllib: a probe is a process every few seconds, and a client that
        # takes long to import costs more than it asks.
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S):
            return None
    except (URLError, OSError) as error:
        return f"expected a service that is ready at {url}: {error}"


if __name__ == "__main__":
    reasons = [reason for address in sys.argv[1:] or own_address() if (reason := problem(address)) is not None]
    if reasons:
        sys.exit("\n".join(reasons))
