"""The files of a deployment of any students; the repository's are those of two."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from opcod.commands.compose import compose
from opcod.commands.k8s import k8s
from opcod.deployed.rendering import STUDENT_FOLDERS, compose_file, kubernetes_files, scrape_file
from shared.errors import ConfigError

ROOT = Path(__file__).resolve().parents[4]
TWO = {"a": 1, "b": 1}
PER_STUDENT = ("student-{}", "trainer-{}", "trainer-{}-gpu", "trainer-{}-gpu1")


def test_the_file_in_the_repository_is_what_it_prints_for_two_students() -> None:
    assert compose_file(TWO, "laptop") == (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("students", [("solo",), ("bio", "chem", "phys"), ("no", "null", "true"), tuple("abcdefgh")])
def test_each_student_has_its_services_and_all_else_stays(students: tuple[str, ...]) -> None:
    found = yaml.safe_load(compose_file(dict.fromkeys(students, 1), "trio"))["services"]
    first, *rest = students
    own = {name.format(student) for name in PER_STUDENT for student in students}
    engines = {f"vllm-{student}" for student in students} | {f"vllm-{student}-gpu1" for student in rest}
    of_two = yaml.safe_load(compose_file(TWO, "laptop"))["services"]
    common = {name for name in of_two if "-a" not in name and "-b" not in name} | {"prepare-gpu"}
    assert set(found) == own | engines | common
    for student in students:
        assert found[f"trainer-{student}-gpu"]["environment"]["OPCOD_STUDENT"] == student
        assert found[f"vllm-{student}"]["environment"]["OPCOD_STUDENT"] == student
        assert f"http://student-{student}:8100" in found["students"]["command"]
        assert f"http://trainer-{student}:8200" in found["trainers"]["command"]
    assert [gpus(found[f"vllm-{student}"]) for student in students] == [[str(gpu)] for gpu in range(len(students))]
    last = f"vllm-{rest[-1]}-gpu1" if rest else f"vllm-{first}"
    assert last in found[f"trainer-{first}-gpu1"]["depends_on"], "trainers start when the last engine is there"
    assert found["prepare"]["environment"]["OPCOD_PRESET"] == "${OPCOD_PRESET:-trio}"


@pytest.mark.parametrize("students", [("solo",), ("a", "b"), tuple("abcdefgh")])
def test_the_socket_of_an_engine_is_seen_by_its_student_only_and_its_volume_has_an_owner(
    students: tuple[str, ...],
) -> None:
    project = yaml.safe_load(compose_file(dict.fromkeys(students, 1), "trio"))
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
    services = yaml.safe_load(compose_file(dict.fromkeys(students, 1), "trio"))["services"]
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
    assert capsys.readouterr().out == compose_file(dict.fromkeys("abc", 1), "trio")
    compose(preset="trio", prometheus=True)
    assert capsys.readouterr().out == scrape_file(("a", "b", "c"))


def test_a_name_that_yaml_has_for_something_else_stays_one_in_a_cluster() -> None:
    files = kubernetes_files(("no", "true"))
    for path, folder in ((path, path.parent.name) for path in files if "-" in path.parent.name):
        (labels,) = yaml.safe_load(files[path])["labels"]
        assert labels["pairs"] == {"opcod/student": folder.partition("-")[2]}


def gpus(service: dict[str, Any]) -> list[str]:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    ids: list[str] = device["device_ids"]
    return ids


def test_engines_and_trainers_have_as_many_gpus_as_their_settings_need() -> None:
    both = yaml.safe_load(compose_file({"a": 2, "b": 2}, "laptop", ranks=2))["services"]
    assert gpus(both["vllm-a"]) == gpus(both["trainer-a-gpu"]) == gpus(both["prepare-gpu"]) == ["0", "1"]
    assert gpus(both["vllm-b"]) == gpus(both["trainer-b-gpu"]) == ["2", "3"]
    assert both["trainer-a-gpu"]["shm_size"] == both["trainer-b-gpu"]["shm_size"] == "1g"
    unlike = yaml.safe_load(compose_file({"a": 1, "b": 4}, "laptop", ranks=2))["services"]
    assert (gpus(unlike["vllm-a"]), gpus(unlike["trainer-a-gpu"])) == (["0"], ["0", "1"])
    assert (gpus(unlike["vllm-b"]), gpus(unlike["trainer-b-gpu"])) == (["2", "3", "4", "5"], ["2", "3"])
    told = unlike["prepare-gpu"]["environment"]["OPCOD_CONTAINER_GPUS"]
    assert told == "student-a=1 trainer-a=2 student-b=4 trainer-b=2"
    for services in (both, unlike):
        assert not [name for name, each in services.items() if "gpu1" in name or "gpu1" in each.get("profiles", ())]


def test_the_command_goes_by_parallel_sizes_and_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    compose(overrides=["students.b.vllm.data_parallel_size=2", "trainer.ranks=3"])
    assert capsys.readouterr().out == compose_file({"a": 1, "b": 2}, "laptop", ranks=3)


def test_engines_on_one_card_share_it() -> None:
    of_three = yaml.safe_load(compose_file(dict.fromkeys("abc", 1), "trio"))["services"]["prepare-gpu"]["environment"]
    assert of_three["OPCOD_ENGINE_MEMORY"] == "${OPCOD_ENGINE_MEMORY:-0.17}"
    # What is set here, opcod.env cannot change.
    assert {key.rpartition("__")[2] for key in of_three if key.startswith("OPCOD_SET_")} == {"ENGINE", "URL"}


@pytest.mark.parametrize(("engines", "ranks", "total"), [(dict.fromkeys("abcdefghi", 1), 1, 9), (TWO, 5, 10)])
def test_more_than_a_machine_has_cards_is_refused(engines: dict[str, int], ranks: int, total: int) -> None:
    with pytest.raises(ConfigError, match=f"expected at most 8 GPUs for one machine's Compose file, .* got {total}"):
        compose_file(engines, "laptop", ranks)


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
