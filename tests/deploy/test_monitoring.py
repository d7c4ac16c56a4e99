"""Metrics, alerts and the dashboard speak of the same things: what the services really serve."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import promql_parser
import pytest
import yaml

from tests.deploy.deployed import K8S, ROOT, compose, of_kind, pods
from tests.deploy.overlays import with_component
from tests.deploy.tools import tool

MONITORING = ROOT / "docker" / "monitoring"
RULES = MONITORING / "rules.yml"
DASHBOARD = json.loads((K8S / "components" / "monitoring" / "dashboard.json").read_text())
SCRAPED = {"service", "student", "job", "instance"}
FOREIGN = {"up": set[str](), "process_resident_memory_bytes": set[str]()}
"""Of Prometheus itself and of its Python client."""

_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)(?:\{([^}]*)\})?(?:\[|\s|\)|$)")
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_metrics", ROOT / "docs" / "generate_metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
LABELS = FOREIGN | {
    name: set(metric._labelnames) | ({"le"} if name.endswith("_bucket") else set())
    for metric in GENERATOR.metrics()
    for name in GENERATOR.exposed_names(metric)
}


def alerts() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """(where, query) of everything that asks Prometheus."""
    yield from ((rule["alert"], rule["expr"]) for rule in alerts())
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))


def metrics_of(query: str) -> dict[str, set[str]]:
    """The labels that a query asks of each of our metrics in it."""
    names = [name for name in re.findall(r"[a-z_][a-z0-9_]*", query) if name in LABELS or name.startswith("opcod_")]
    grouped = {label.strip() for group in _GROUPING.findall(query) for label in group.split(",") if label.strip()}
    found: dict[str, set[str]] = {name: set(grouped) for name in names}
    for name, matchers in _SELECTOR.findall(query):
        if name in found:
            found[name] |= set(re.findall(r"(\w+)\s*[=!]", matchers))
    return found


def test_the_page_of_metrics_is_up_to_date() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == GENERATOR.page(), "run `python docs/generate_metrics.py`"
    assert page.count("| `opcod_") > 30


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_what_is_asked_for_exists(where: str, query: str) -> None:
    promql_parser.parse(query)
    asked = metrics_of(query)
    assert asked, f"{where}: {query} asks for none of our metrics"
    for name, labels in asked.items():
        assert name in LABELS, f"{where}: no service has {name}"
        assert labels <= LABELS[name] | SCRAPED, f"{where}: {name} has no {labels - LABELS[name] - SCRAPED}"


def test_a_query_for_what_does_not_exist_is_seen() -> None:
    assert metrics_of('sum by (kind) (rate(opcod_student_jobs_total{outcome="ok", who!="x"}[5m]))') == {
        "opcod_student_jobs_total": {"kind", "outcome", "who"}
    }
    assert set(metrics_of("opcod_no_such > 1")) - set(LABELS) == {"opcod_no_such"}


def test_prometheus_takes_the_rules_and_its_configuration(tmp_path: Path) -> None:
    for name in ("rules.yml", "prometheus.yml"):
        text = (MONITORING / name).read_text().replace("/etc/prometheus/", f"{tmp_path}/")
        (tmp_path / name).write_text(text)
    for arguments in (("check", "rules", "--lint-fatal", "rules.yml"), ("check", "config", "prometheus.yml")):
        promtool(tmp_path, *arguments)


def test_alerts_fire_when_they_should_and_not_in_a_run_that_is_well(tmp_path: Path) -> None:
    scenarios = Path(__file__).with_name("rules_test.yml")
    for file in (RULES, scenarios):
        shutil.copy(file, tmp_path)
    promtool(tmp_path, "test", "rules", scenarios.name)
    tried = {
        case["alertname"]
        for test in yaml.safe_load(scenarios.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == {rule["alert"] for rule in alerts()}


def test_every_alert_has_its_runbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    headings = set(re.findall(r"^### (Opcod\w+)$", page, re.MULTILINE))
    assert headings == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"  # type: ignore[index]


def test_the_cluster_has_the_same_alerts_and_the_same_dashboard() -> None:
    objects = with_component("monitoring")
    (rule,) = of_kind(objects, "PrometheusRule").values()
    assert rule["spec"]["groups"] == yaml.safe_load(RULES.read_text())["groups"], "copy docker/monitoring/rules.yml"
    dashboard = of_kind(objects, "ConfigMap")["opcod-dashboard"]
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(dashboard["data"]["opcod.json"]) == DASHBOARD


def test_everything_that_serves_metrics_is_scraped_with_the_labels_that_queries_use() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    scraped = {target: each["labels"] for each in job["static_configs"] for target in each["targets"]}
    services = compose("cpu", "monitor")["services"]
    serving = {
        f"{name}:{service['environment']['OPCOD_PORT']}": name
        for name, service in services.items()
        if "OPCOD_PORT" in service.get("environment", {})
    }
    assert set(scraped) == set(serving)
    for target, name in serving.items():
        service, _, student = name.partition("-")
        assert scraped[target] == ({"service": service} | ({"student": student} if student else {}))


def test_in_the_cluster_too() -> None:
    objects = with_component("monitoring")
    (monitor,) = of_kind(objects, "PodMonitor").values()
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    chosen = {name for name, pod in pods(objects).items() if wanted <= pod["metadata"]["labels"].items()}
    assert chosen == {"broker", "inspector", "student-a", "student-b", "trainer-a", "trainer-b"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert {each["targetLabel"] for each in endpoint["relabelings"]} == {"job", "service", "student"}


def test_grafana_finds_what_is_provisioned() -> None:
    grafana = compose("cpu", "monitor")["services"]["grafana"]
    mounts = {mount["target"]: mount["source"] for mount in grafana["volumes"]}
    provisioning = Path(mounts["/etc/grafana/provisioning"])
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "opcod.yml").read_text())["providers"]
    assert any(Path(target).parent == Path(provider["options"]["path"]) for target in mounts)
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel} == {"${datasource}"}
    panels = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in panels) and len(
        {p["id"] for p in DASHBOARD["panels"]}
    ) == len(panels)


def promtool(directory: Path, *arguments: str) -> None:
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
