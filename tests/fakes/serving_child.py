"""A service to start and end: `python -m tests.fakes.serving_child <port> <url file> <how> [host]`."""

import itertools
import sys
import threading
import time
from pathlib import Path

from shared.errors import FencedError
from shared.http.app import create_app
from shared.http.serving import Service
from shared.parents import run_service
from tests.fakes.access import PLENTY

LONG_S = 60.0


def main() -> int:
    port, url_file, how, *hosts = sys.argv[1:]
    (host,) = hosts or ["127.0.0.1"]
    service = Service("child")
    asked = itertools.count(1)

    def ready() -> str | None:
        """With "late" once it is asked for the third time, with "never" never."""
        not_yet = how == "never" or (how == "late" and next(asked) < 3)
        return "no version is loaded yet" if not_yet else None

    app = create_app("child", ready=ready, keys=None, limits=PLENTY)

    def work() -> None:
        match how:
            case "fenced":
                raise FencedError("another leads")
            case "broken":
                raise RuntimeError("a bug")
            case "stubborn":
                threading.Event().wait(LONG_S)
            case _:
                service.stopping.wait()

    @app.get("/slow")
    def slow() -> dict[str, str]:
        Path(f"{url_file}.asked").touch()
        time.sleep(0.5)
        return {"answered": "in full"}

    service.spawn("work", work)
    return service.serve(
        app, host=host, port=int(port), url_file=Path(url_file), grace_s=1.0 if how == "stubborn" else LONG_S
    )


if __name__ == "__main__":
    run_service(main)
