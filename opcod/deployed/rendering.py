"""The files of a deployment that name its students, for any students.

What always holds: `docker-compose.yml`, `docker/monitoring/prometheus.yml` and the files in `k8s/` are what is rendered
for two of them, `a` and `b`. With Compose each student has a service for itself, a trainer, and with GPUs an engine: a
card each in the profile `gpu`, the first one together in `gpu1`. In a cluster each has a folder of the base, which
gives it its name, and one of the component that has its trainer on several nodes.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from shared.errors import ConfigError

STUDENT_FOLDERS = {"k8s-student": "base/student-*", "k8s-trainer": "components/group/trainer-*"}
"""Below `k8s/`, by the template of what is in one: `*` is the name of a student."""

_NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

_NO_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Names that some reader of YAML takes for a truth value or nothing; numbers begin with no letter."""

ENGINES_SHARE = 0.5
"""Of the memory of a GPU that all engines are on; trainers have the rest."""


def compose_file(students: Sequence[str], preset: str) -> str:
    """students: their names, in order. preset: what a run is begun with where OPCOD_PRESET says nothing else.

    Raises ConfigError for more students than a machine of eight GPUs has cards for.
    """
    if len(students) > len(_NTH):
        raise ConfigError(
            f"students: expected at most {len(_NTH)} for one machine's Compose file, got {len(students)}; deploy them "
            "to a cluster"
        )
    first, *rest = students
    return _rendered(
        "docker-compose",
        students=students,
        first=first,
        rest=rest,
        preset=preset,
        engine_share=f"{ENGINES_SHARE / len(students):.2g}",
        nth=lambda index: _NTH[index],
        number=lambda count: _NUMBERS[count - 1],
    )


def scrape_file(students: Sequence[str]) -> str:
    """What Prometheus scrapes beside the Compose file of these students. In a cluster it finds pods by their labels."""
    return _rendered("prometheus", students=students)


def kubernetes_files(students: Sequence[str]) -> dict[PurePosixPath, str]:
    """Text by path below `k8s/`, of every file that names a student. `STUDENT_FOLDERS` has no others than these."""
    folders = {
        PurePosixPath(folder.replace("*", student)) / "kustomization.yaml": _rendered(template, student=student)
        for template, folder in STUDENT_FOLDERS.items()
        for student in students
    }
    return {
        PurePosixPath("base/kustomization.yaml"): _rendered("k8s-base", students=students),
        PurePosixPath("components/gpu/kustomization.yaml"): _rendered("k8s-gpu", students=students),
        PurePosixPath("components/group/kustomization.yaml"): _rendered("k8s-group", students=students),
        **folders,
    }


def _text(name: str) -> str:
    """A student's name as a value in YAML, of whatever version."""
    return f'"{name}"' if name in _NO_TEXT else name


def _rendered(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("opcod.deployed", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = _text
    return environment.get_template(f"{template}.jinja").render(**values)
