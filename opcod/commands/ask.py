"""`opcod ask`: one student answers, its peer gives feedback, the first answers again; each stage as it comes."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.deployment import Deployment, is_elsewhere, live_deployment, run_lock
from opcod.local.launcher import Launcher
from opcod.local.progress import make_console, tell
from opcod.local.signals import interruptible
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, ConfigFile, Overrides, Preset, RunsDir
from opcod.prepare.checks import served_settings
from opcod.prepare.models import prepare_models
from opcod.talk.client import Client, body_of
from opcod.talk.text import indented, on_one_line
from shared.config.settings import Paths, RunSettings
from shared.contracts.http import STAGE, STAGES, Advised, AskRequest, AskResponse, Stage
from shared.errors import ConfigError, StoppedError, UnavailableError
from shared.http.client import parsed


def ask(
    problem: Annotated[str, typer.Argument(help="The question.")],
    run_name: Annotated[str | None, typer.Option("--run", help="Default: what is up, else the run begun last.")] = None,
    first: Annotated[str | None, typer.Option("--first", help="The student that answers; default: the first.")] = None,
    tutor: Annotated[str | None, typer.Option("--tutor", help="Who gives feedback; default: the best peer.")] = None,
    exchanges: Annotated[int, typer.Option("--exchanges", min=1, max=3, help="How often feedback is given.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same answers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole exchange as JSON.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Ask the peers a question: one answers, its peer gives feedback, and it answers again.

    If nothing is up, the run's services are started for the question.

    Example: `opcod ask "How many kg are 3 cubic meters of kerosene for a plane?"`
    """
    request = body_of(
        AskRequest, ["problem"], problem=problem, first=first, tutor=tutor, exchanges=exchanges, seed=seed
    )
    found = _found(runs_dir, run_name)
    place = (found.run_dir.parent, found.run_dir.name) if found else (runs_dir, run_name)
    paths, settings = served_settings(*place, cache_dir, preset, config, overrides)
    _check_names(settings, first, tutor)
    up = nullcontext(found) if found else _started(paths, settings)
    with up as deployment, closing(Client(deployment)) as client:
        for event in client.broker_events("/v1/peers/ask", request):
            if event.event in STAGES and not as_json:
                typer.echo("\n".join(stage_lines(parsed("the broker", STAGE.validate_json, event.data))))
            elif event.event == "done" and as_json:
                asked = parsed("the broker", AskResponse.model_validate_json, event.data)
                typer.echo(asked.model_dump_json(indent=1))


def _check_names(settings: RunSettings, first: str | None, tutor: str | None) -> None:
    """Before services are started for a question that the broker would refuse. Raises ConfigError."""
    for option, name in (("--first", first), ("--tutor", tutor)):
        if name is not None:
            settings.require_student(name, option)
    if tutor is not None and tutor == (first or settings.names[0]):
        raise ConfigError(f"--tutor: expected another student than {tutor}, which answers")


def stage_lines(stage: Stage) -> list[str]:
    """A stage as a person reads it."""
    if not isinstance(stage, Advised):
        return [f"{on_one_line(stage.heading)}:", indented(stage.text)]
    lines = [f"{on_one_line(stage.heading)}:", indented(stage.raw.strip() or "(nothing)")]
    if stage.delivered is not None and stage.delivered.strip() != stage.raw.strip():
        lines += ["passed on as:", indented(stage.delivered)]
    return lines


def _found(runs_dir: Path, run_name: str | None) -> Deployment | None:
    """What is up, if anything is."""
    try:
        return live_deployment(runs_dir, run_name)
    except UnavailableError:
        # Where containers or a cluster have the services, none are to be started here.
        if is_elsewhere():
            raise
        return None


@contextmanager
def _started(paths: Paths, settings: RunSettings) -> Iterator[Deployment]:
    """The run's services, started for this question and stopped after it."""
    # Standard output is the answer's alone, which a script may read.
    console = make_console(stderr=True)
    with run_lock(paths.run_dir), ExitStack() as ending:
        with interruptible() as interrupted:
            prepare_models(paths, settings, lambda what: tell(console, f"preparing: {what}"), interrupted, purpose="up")
            launcher = Launcher(paths, settings, "up", interrupted)
            # Before it starts anything: whatever is up by the time that something fails has to be stopped.
            ending.callback(_stop, launcher)
            deployment = launcher.start(lambda what: tell(console, f"starting: {what}"))
            if interrupted():
                raise StoppedError("stopped before the question was asked")
        yield deployment


def _stop(launcher: Launcher) -> None:
    with interruptible():  # a second Ctrl-C leaves nothing half-stopped
        launcher.stop()
