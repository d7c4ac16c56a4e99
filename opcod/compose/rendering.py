"""The Compose file for any students: `docker-compose.yml` of the repository is what this prints for two, `a` and `b`.

Each student has a service for itself, a trainer, and with GPUs an engine; a card each in the profile `gpu`, the first
one together in `gpu1`.
"""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from shared.errors import ConfigError

_NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

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
    environment = Environment(
        loader=PackageLoader("opcod.compose", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    first, *rest = students
    return environment.get_template("docker-compose.jinja").render(
        students=students,
        first=first,
        rest=rest,
        preset=preset,
        engine_share=f"{ENGINES_SHARE / len(students):.2g}",
        nth=lambda index: _NTH[index],
        number=lambda count: _NUMBERS[count - 1],
    )
