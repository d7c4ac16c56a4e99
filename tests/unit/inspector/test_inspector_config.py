from pathlib import Path

import pytest

from services.inspector.config import MAX_BUS_DEADLINE_S, inspector_config
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings, to_toml
from shared.errors import ConfigError


def environment(tmp_path: Path, overrides: tuple[str, ...] = (), **fields: object) -> ServiceEnvironment:
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    (tmp_path / "config.toml").write_text(to_toml(settings))
    known = {"run": "r1", "run_dir": tmp_path, "cache_dir": tmp_path, "redis_url": "redis://localhost"}
    return ServiceEnvironment.model_validate(known | fields)


def test_the_port_is_the_environment_s_or_else_the_run_s(tmp_path: Path) -> None:
    overrides = ("serving.inspector_port=7001",)
    assert inspector_config(environment(tmp_path, overrides)).port == 7001
    assert inspector_config(environment(tmp_path, overrides, port=7002)).port == 7002


def test_the_store_lies_in_the_run_and_a_long_deadline_is_cut(tmp_path: Path) -> None:
    config = inspector_config(environment(tmp_path, ("bus.deadline_s=60",)))
    assert config.store_path == tmp_path / "inspector" / "log.sqlite3"
    assert config.bus_deadline_s == MAX_BUS_DEADLINE_S
    assert inspector_config(environment(tmp_path, ("bus.deadline_s=0.5",))).bus_deadline_s == 0.5


def test_without_a_key_it_only_listens_on_loopback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OPCOD_KEY_FILE"):
        inspector_config(environment(tmp_path, host="0.0.0.0"))
    (tmp_path / "key").write_text("open-sesame\n")
    config = inspector_config(environment(tmp_path, host="0.0.0.0", key_file=tmp_path / "key"))
    assert config.keys is not None
    assert config.keys.strongest == "open-sesame"
