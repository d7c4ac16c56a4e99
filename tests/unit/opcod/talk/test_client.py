"""How the command line talks to services that are up."""

from contextlib import closing
from pathlib import Path

import pytest

from opcod.local.deployment import Deployment, ensure_key
from opcod.talk.client import Client
from shared.config.loading import load_settings, to_toml


@pytest.mark.parametrize(("overrides", "at_least_s"), [((), 120), (("serving.request_timeout_s=900",), 900)])
def test_it_waits_longer_than_a_service_takes_for_an_answer(
    tmp_path: Path, overrides: tuple[str, ...], at_least_s: float
) -> None:
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    (tmp_path / "config.toml").write_text(to_toml(settings))
    key_file = ensure_key(tmp_path)
    deployment = Deployment(run="r1", run_dir=tmp_path, mode="run", key_file=key_file, redis_url="redis://x")
    with closing(Client(deployment)) as client:
        assert at_least_s < client.timeout_s <= at_least_s + 60
