"""docker-compose.yml for every profile: the tool takes it, and nothing in it has more rights than it needs."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.deployed import PROFILES, ROOT, compose

OURS = ("opcod:", "opcod-model:")
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
"""As they are written; `compose` says what the tool makes of them."""

EACH = [
    pytest.param(profiles, name, id=f"{'+'.join(profiles)} {name}")
    for profiles in PROFILES
    for name, service in SERVICES.items()
    if set(service.get("profiles", profiles)) & set(profiles)
]


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_the_tool_takes_it_and_its_parts_refer_to_each_other(profiles: tuple[str, ...]) -> None:
    project = compose(*profiles)
    assert {name for those, name in (each.values for each in EACH) if those == profiles} == set(project["services"])
    for name, service in project["services"].items():
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                assert mount["source"] in project["volumes"], name
            else:
                assert mount["read_only"] and mount["source"].startswith(str(ROOT)), name
        for other, need in service.get("depends_on", {}).items():
            assert other in project["services"] or not need["required"], name
            if need["condition"] == "service_healthy" and other in project["services"]:
                needed = project["services"][other]
                assert "healthcheck" in needed or needed["image"].startswith(OURS), f"{other} has no health check"


def test_every_profile_of_the_file_is_looked_at() -> None:
    named = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert named == {profile for profiles in PROFILES for profile in profiles}


def test_without_options_it_is_the_laptop_on_the_cpu() -> None:
    assert compose()["services"] == compose("cpu")["services"]
    assert compose()["services"]["prepare"]["environment"]["OPCOD_PRESET"] == "laptop"


def test_every_command_goes_by_what_the_documented_env_file_says() -> None:
    """Named by it: also a command that itself says nothing, such as `run --rm cli status`."""
    (text,) = re.findall(r"```ini\n# \.env\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    said = tuple((name, value) for name, _, value in (line.partition("=") for line in text.splitlines()))
    services = compose(variables=said)["services"]
    assert services.keys() == compose("gpu")["services"].keys()
    assert {each["environment"].get("OPCOD_RUN", "pair") for each in services.values() if "environment" in each} == {
        "pair"
    }
    prepare = services["prepare-gpu"]["environment"]
    assert (prepare["OPCOD_PRESET"], prepare["OPCOD_ENGINE_MEMORY"]) == ("phys-chem", "0.5")
    assert {name for name, _ in said} > set(re.findall(r"^(\w+)=", (ROOT / ".env").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("profiles", "name"), EACH)
def test_a_container_has_no_more_rights_than_it_needs(profiles: tuple[str, ...], name: str) -> None:
    service = compose(*profiles)["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc"} & set(service)
    assert service.get("network_mode") in (None, "none")
    assert service["image"].startswith(OURS) or service["user"].partition(":")[0] not in ("", "0")
    for mount in service.get("volumes", []):
        if mount["source"] == "secrets":
            assert mount.get("read_only") or name == "keys"


@pytest.mark.parametrize(("profiles", "name"), EACH)
def test_a_container_has_limits_and_time_to_stop(profiles: tuple[str, ...], name: str) -> None:
    service = compose(*profiles)["services"][name]
    serves = service["restart"] == "unless-stopped"
    assert service["pids_limit"] <= 4096 and service["logging"]["options"]["max-file"]
    assert "mem_limit" in service or not serves
    assert "stop_grace_period" in service, name


@pytest.mark.parametrize(("profiles", "name"), EACH)
def test_engines_and_redis_are_reached_from_inside_only(profiles: tuple[str, ...], name: str) -> None:
    service = compose(*profiles)["services"][name]
    networks = set(service.get("networks", {}))
    published = "ports" in service
    assert ("outside" in networks) == (published or name in ("prepare", "prepare-gpu")), name
    if name == "redis" or name.startswith(("student", "trainer")):
        assert networks == {"inside"}


def test_inside_leads_nowhere_not_even_to_the_host() -> None:
    """`internal` alone leaves the bridge an address, at which a container reaches what the host listens with."""
    inside = compose()["networks"]["inside"]
    assert inside["internal"] is True
    assert inside["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}
    assert "enable_ipv6" not in inside


def test_what_is_copied_into_the_cache_as_documented_lies_there_once_however_often(tmp_path: Path) -> None:
    (command,) = re.findall(r'cli -c "(cp [^"]+)"', (ROOT / "docs" / "deploy.md").read_text())
    (tmp_path / "in" / "sciknoweval").mkdir(parents=True)
    (tmp_path / "in" / "sciknoweval" / "row.jsonl").write_text("{}")
    (tmp_path / "data" / "cache").mkdir(parents=True)
    here = re.sub(r"(?<= )/(?=in|data)", f"{tmp_path}/", command)
    for _ in range(2):
        subprocess.run(["sh", "-c", here], check=True, timeout=30)
        copied = [path.relative_to(tmp_path / "data" / "cache") for path in (tmp_path / "data").rglob("*.jsonl")]
        assert copied == [Path("data/sciknoweval/row.jsonl")]
