"""`opcod compose`: the Compose file of a deployment for the students of the settings, and what is scraped there."""

from typing import Annotated

import typer

from opcod.deployed.rendering import compose_file, scrape_file
from opcod.options import DEFAULT_PRESET, ConfigFile, Overrides, Preset, settings_from


def compose(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print what belongs in docker/monitoring/prometheus.yml instead.")
    ] = False,
) -> None:
    """Print the Compose file for the students of the settings, such as `opcod compose --preset trio > trio.yml`.

    Put it beside docker-compose.yml, which is what this prints for the students a and b.
    """
    settings = settings_from(preset, config, overrides)
    engines = {name: settings.students[name].vllm.gpus for name in settings.names}
    printed = (
        scrape_file(settings.names)
        if prometheus
        else compose_file(engines, preset or DEFAULT_PRESET, settings.trainer.ranks)
    )
    typer.echo(printed, nl=False)
