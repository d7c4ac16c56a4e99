"""The files of a deployment that name its students, for any students.

What always holds: `docker-compose.yml`, `docker/monitoring/prometheus.yml` and the files in `k8s/` are what is rendered
for two of them, `a` and `b`. With Compose each student has a service for itself, a trainer, and with GPUs an engine: a
range of cards for each student in the profile `gpu`, the first card for all of them in `gpu1`, which is there where no
process needs several. In a cluster each has a folder of the base, which
gives it its name, and one of the component that has its trainer on several nodes.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from opcod.local.gpus import Shares
from shared.errors import ConfigError

STUDENT_FOLDERS = {"k8s-student": "base/student-*", "k8s-trainer": "components/group/trainer-*"}
"""Below `k8s/`, by the template of what is in one: `*` is the name of a student."""

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

_NO_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Names that some reader of YAML takes for a truth value or nothing; numbers begin with no letter."""

ENGINES_SHARE = 0.5
"""Of the memory of a GPU that all engines are on; trainers have the rest."""


def compose_file(engines: Mapping[str, int], preset: str, ranks: int = 1) -> str:
    """engines: of each student by its name, in order, how many GPUs its engine has. preset: what a run is begun with
    where OPCOD_PRESET says nothing else. ranks: of each trainer, a GPU each.

    Raises ConfigError for more than a machine of eight GPUs has.
    """
    shares, total = _shares(engines, ranks)
    if total > len(_NUMBERS):
        raise ConfigError(
            f"students: expected at most {len(_NUMBERS)} GPUs for one machine's Compose file, for each student as many "
            f"as its engine or its trainer needs, got {total}; lower parallel sizes or trainer.ranks, or deploy to a "
            "cluster"
        )
    first, *rest = engines
    return _rendered(
        "docker-compose",
        students=list(engines),
        first=first,
        rest=rest,
        preset=preset,
        ranks=ranks,
        shares=shares,
        gpus=range(total),
        one_gpu=all(len(ids) == 1 for ids in shares.values()),
        engine_share=f"{ENGINES_SHARE / len(engines):.2g}",
        number=lambda count: _NUMBERS[count - 1],
    )


def _shares(engines: Mapping[str, int], ranks: int) -> tuple[Shares, int]:
    """Of the profile `gpu`: a range for each student, from which both its engine and its trainer have the first ones;
    and how many there are in all."""
    shares: Shares = {}
    total = 0
    for student, count in engines.items():
        shares[f"student-{student}"] = tuple(range(total, total + count))
        shares[f"trainer-{student}"] = tuple(range(total, total + ranks))
        total += max(count, ranks)
    return shares, total


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


def _card(ids: Sequence[int]) -> str:
    """The name of these GPUs in the file."""
    return "-".join(("gpu", *map(str, ids)))


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
    environment.filters["card"] = _card
    return environment.get_template(f"{template}.jinja").render(**values)
