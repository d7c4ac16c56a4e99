"""`python -m shared.probing`: is the service of this container ready? Exit code 0 or 1; what a health check runs.

The service listens on OPCOD_PORT; a container without one serves nothing, and is well.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from shared.addresses import http_url

TIMEOUT_S = 4.0


def problem() -> str | None:
    """Why it is not ready, or None."""
    port = os.environ.get("OPCOD_PORT")
    if not port:
        return None
    url = f"{http_url(os.environ.get('OPCOD_HOST', '127.0.0.1'), int(port))}/readyz"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S):
            return None
    except (URLError, OSError) as error:
        return f"{url}: {error}"


if __name__ == "__main__":
    if (reason := problem()) is not None:
        sys.exit(reason)
