"""A run whose services listen on IPv6: every address that one tells another is one that it can use."""

from pathlib import Path

import pytest

from opcod.prepare.checks import check_settings
from opcod.talk.client import Client
from shared.config.settings import Paths
from shared.contracts.http import AskRequest, AskResponse, PeersResponse
from shared.errors import ConfigError
from shared.http.addresses import listen
from tests.fakes.deployment import scripted_settings
from tests.fakes.ipv6 import needs_ipv6
from tests.fakes.served import served_run

pytestmark = needs_ipv6


def test_a_run_on_ipv6_answers_a_question(tmp_path: Path) -> None:
    with served_run(tmp_path, "serving.host=::1") as up:
        client = Client(up)
        try:
            answer = client.broker("POST", "/v1/peers/ask", AskResponse, AskRequest(problem="What is 2 + 3?"))
            peers = client.broker("GET", "/v1/peers", PeersResponse).peers
        finally:
            client.close()
    assert answer.answer.student == "a"
    assert [peer.url is not None and peer.url.startswith("http://[::1]:") for peer in peers] == [True, True]


def test_a_port_of_ipv6_that_is_taken_is_found_before_the_run_begins(tmp_path: Path) -> None:
    with listen("::1", 0) as taken:
        port = taken.getsockname()[1]
        settings = scripted_settings("serving.host=::1", f"serving.broker_port={port}")
        with pytest.raises(ConfigError, match=rf"serving.broker_port: cannot listen on \[::1\]:{port}: .*another port"):
            check_settings(Paths(runs_dir=tmp_path, run="taken", cache_dir=tmp_path), settings)
