"""The files of a deployment of any students; the repository's are those of two."""

import shutil
from pathlib import Path

import pytest
import yaml

from opcod.commands.compose import compose
from opcod.commands.k8s import k8s
from opcod.deployed.rendering import STUDENT_FOLDERS, compose_file, kubernetes_files, scrape_file
from shared.errors import ConfigError

ROOT = Path(__file__).resolve().parents[4]
PER_STUDENT = ("student-{}", "trainer-{}", "trainer-{}-gpu", "trainer-{}-gpu1")


def test_the_file_in_the_repository_is_what_it_prints_for_two_students() -> None:
    assert compose_file(("a", "b"), "laptop") == (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("students", [("solo",), ("bio", "chem", "phys"), ("no", "null", "true"), tuple("abcdefgh")])
def test_each_student_has_its_services_and_all_else_stays(students: tuple[str, ...]) -> None:
    found = yaml.safe_load(compose_file(students, "trio"))["services"]
    first, *rest = students
    own = {name.format(student) for name in PER_STUDENT for student in students}
    engines = {f"vllm-{student}" for student in students} | {f"vllm-{student}-gpu1" for student in rest}
    of_two = yaml.safe_load(compose_file(("a", "b"), "laptop"))["services"]
    common = {name for name in of_two if "-a" not in name and "-b" not in name} | {"prepare-gpu"}
    assert set(found) == own | engines | common
    for student in students:
        assert found[f"trainer-{student}-gpu"]["environment"]["OPCOD_STUDENT"] == student
        assert found[f"vllm-{student}"]["environment"]["OPCOD_STUDENT"] == student
        assert f"student-{student}" in found["broker"]["depends_on"]
        assert f"http://trainer-{student}:8200" in found["trainers"]["command"]
    cards = [found[f"vllm-{s}"]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for s in students]
    assert cards == [[str(number)] for number in range(len(students))]
    last = f"vllm-{rest[-1]}-gpu1" if rest else f"vllm-{first}"
    assert last in found[f"trainer-{first}-gpu1"]["depends_on"], "trainers start when the last engine is there"
    assert found["prepare"]["environment"]["OPCOD_PRESET"] == "${OPCOD_PRESET:-trio}"


@pytest.mark.parametrize("students", [("solo",), ("a", "b"), tuple("abcdefgh")])
def test_the_socket_of_an_engine_is_seen_by_its_student_only_and_its_volume_has_an_owner(
    students: tuple[str, ...],
) -> None:
    project = yaml.safe_load(compose_file(students, "trio"))
    mounts = {
        (name, *mount.split(":")[:2]) for name, each in project["services"].items() for mount in each.get("volumes", ())
    }
    directories = (ROOT / "docker" / "Dockerfile").read_text().partition("install -d -o opcod")[2].partition("&&")[0]
    for number, student in enumerate(students, start=1):
        engines = [name for name in (f"vllm-{student}", f"vllm-{student}-gpu1") if name in project["services"]]
        assert {(name, where) for name, volume, where in mounts if volume == f"engines-{student}"} == {
            *((name, "/data/engines") for name in (f"student-{student}", *engines)),
            ("keys", f"/data/engines-{number}"),
        }
        assert f"engines-{student}" in project["volumes"] and f"/data/engines-{number}" in directories.split()
    assert len({where for name, _, where in mounts if name == "keys"}) == 3 + len(students), "a place each"


def test_what_is_scraped_in_the_repository_is_that_of_two_students() -> None:
    assert scrape_file(("a", "b")) == (ROOT / "docker" / "monitoring" / "prometheus.yml").read_text()


@pytest.mark.parametrize("students", [("solo",), ("bio", "chem", "phys"), ("no", "yes")])
def test_all_that_serves_beside_the_compose_file_of_any_students_is_scraped(students: tuple[str, ...]) -> None:
    services = yaml.safe_load(compose_file(students, "trio"))["services"]
    told = {name: service["environment"] for name, service in services.items() if "environment" in service}
    serving = {f"{name}:{said['OPCOD_PORT']}" for name, said in told.items() if "OPCOD_PORT" in said}
    (job,) = yaml.safe_load(scrape_file(students))["scrape_configs"]
    scraped = {target: each["labels"] for each in job["static_configs"] for target in each["targets"]}
    # Trainers with GPUs are reached under the names of those without.
    assert {target for target in serving if "-gpu" not in target} == set(scraped)
    for student in students:
        assert scraped[f"student-{student}:8100"] == {"service": "student", "student": student}
        assert scraped[f"trainer-{student}:8200"] == {"service": "trainer", "student": student}


def test_the_command_prints_either_file_for_the_students_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    compose(preset="trio")
    assert capsys.readouterr().out == compose_file(("a", "b", "c"), "trio")
    compose(preset="trio", prometheus=True)
    assert capsys.readouterr().out == scrape_file(("a", "b", "c"))


def test_a_name_that_yaml_has_for_something_else_stays_one_in_a_cluster() -> None:
    files = kubernetes_files(("no", "true"))
    for path, folder in ((path, path.parent.name) for path in files if "-" in path.parent.name):
        (labels,) = yaml.safe_load(files[path])["labels"]
        assert labels["pairs"] == {"opcod/student": folder.partition("-")[2]}


def test_engines_on_one_card_share_it() -> None:
    of_three = yaml.safe_load(compose_file(("a", "b", "c"), "trio"))["services"]["prepare-gpu"]["environment"]
    shares = {key: value for key, value in of_three.items() if key.endswith("UTILIZATION")}
    assert set(shares.values()) == {"${OPCOD_ENGINE_MEMORY:-0.17}"} and len(shares) == 3


def test_more_students_than_a_machine_has_cards_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 8 for one machine's Compose file, got 9"):
        compose_file(tuple("abcdefghi"), "laptop")


def test_the_manifests_in_the_repository_are_those_of_two_students() -> None:
    files = {ROOT / "k8s" / path: text for path, text in kubernetes_files(("a", "b")).items()}
    assert {path: path.read_text() for path in files} == files
    of_a_student = [path for path in (ROOT / "k8s").rglob("kustomization.yaml") if "-" in path.parent.name]
    named = {path for path in of_a_student if path.parent.name.partition("-")[0] in ("student", "trainer")}
    assert len(named) == 2 * len(STUDENT_FOLDERS) and named <= files.keys()


def test_manifests_are_made_for_other_students_and_back(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(ROOT / "k8s", copy)
    k8s(copy, overrides=["students.c.domain=biology", "problems.per_step=30"])
    assert "  - student-c\n" in (copy / "base/kustomization.yaml").read_text()
    assert yaml.safe_load((copy / "base/student-c/kustomization.yaml").read_text())["nameSuffix"] == "-c"
    assert "OPCOD_SET_STUDENTS__C__VLLM__URL" in (copy / "components/gpu/kustomization.yaml").read_text()
    assert "  - trainer-c\n" in (copy / "components/group/kustomization.yaml").read_text()
    assert yaml.safe_load((copy / "components/group/trainer-c/kustomization.yaml").read_text())["nameSuffix"] == "-c"
    k8s(copy)
    for path in (ROOT / "k8s").rglob("*.yaml"):
        assert (copy / path.relative_to(ROOT / "k8s")).read_text() == path.read_text()
    assert not (copy / "base/student-c").exists() and not (copy / "components/group/trainer-c").exists()


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the folder k8s of a copy of this project"):
        k8s(tmp_path)
    assert list(tmp_path.iterdir()) == []
