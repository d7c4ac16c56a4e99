"""A service with keys whose routes fail: `python -m tests.fakes.keyed_child <url file> <key file>`."""

import sys
from pathlib import Path

from shared.errors import StorageError
from shared.http.access import read_keys
from shared.http.app import ASK, create_app
from shared.http.serving import Service
from shared.obs.logging import configure_logging
from shared.parents import run_service
from tests.fakes.access import PLENTY


def main() -> int:
    url_file, key_file = map(Path, sys.argv[1:])
    configure_logging(json=True, service="child")
    service = Service("child")
    app = create_app("child", ready=lambda: None, keys=read_keys(key_file), limits=PLENTY)

    @app.post("/refuses", dependencies=ASK)
    def refuses(body: dict[str, str]) -> None:  # noqa: ARG001 - it has to be read
        raise StorageError("told to refuse")

    @app.post("/breaks", dependencies=ASK)
    def breaks(body: dict[str, str]) -> None:  # noqa: ARG001 - it has to be read
        raise RuntimeError("told to break")

    def work() -> None:
        service.stopping.wait()

    service.spawn("work", work)
    return service.serve(app, host="127.0.0.1", port=0, url_file=url_file, grace_s=2.0)


if __name__ == "__main__":
    run_service(main)
