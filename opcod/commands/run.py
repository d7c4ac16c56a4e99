"""`opcod run`: start all services, train, report, stop.

Meanwhile the run is followed: services that end are started again, its progress is shown, and the command ends once the
run stands (done, failed or paused).
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from rich.console import Console

from opcod.local.deployment import refuse_elsewhere, run_lock, services_of
from opcod.local.gpus import sharing
from opcod.local.launcher import Launcher
from opcod.local.nodes import own_address, rendezvous_of
from opcod.local.processes import Launch, launch
from opcod.local.progress import RunProgress, make_console, tell
from opcod.local.signals import Interrupted, interruptible
from opcod.options import (
    CACHE_DIR,
    DEFAULT_PRESET,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
    paths_for,
    settings_from,
)
from opcod.planning.disk import require_disk
from opcod.planning.plan import show_plan
from opcod.prepare.checks import check_settings, replica_notes, thinking_notes
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run, kept_settings, new_run_name, pin_problems
from opcod.report.text import print_report
from opcod.report.writing import Timeline, is_finished, write_report
from opcod.talk.client import end_pause, page_of
from shared.bus.redis import RedisBus
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import RunState, Status
from shared.errors import EXIT_INTERRUPTED, ConfigError, OpcodError, UnavailableError
from shared.problems.coverage import told_of

POLL_S = 1.0
EVENTS_AT_ONCE = 500

Look = Callable[[Mapping[str, int]], None]
"""Told of the process of each service, once a second while the run is followed."""


def run(
    run_name: Annotated[
        str | None, typer.Option("--run", help="Name of the run; default: preset or file, and time.")
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this run after a stop or crash.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the run would do and need; begin nothing.")
    ] = False,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", help="With --dry-run: GPUs to plan for, in place of this machine's: 2x80 or 2x80,1x24 (GB)."
        ),
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(
            "--rendezvous",
            envvar="OPCOD_RENDEZVOUS",
            help="For a run on several nodes (resources.nodes): host or host:port at which the others reach this one.",
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Train: students tutor each other, and a report says what came of it.

    Without --preset and --config it is the preset laptop: 7 to 12 minutes on two cores. The output says where to watch.
    Ctrl-C stops it cleanly, --resume goes on.

    Example: `opcod run --dry-run --preset phys-chem`, then the same without `--dry-run`
    """
    console = make_console()
    if dry_run:
        if resume is not None:
            raise ConfigError(
                "--dry-run: expected no --resume; the settings of a run that has begun are in its config.toml"
            )
        paths = paths_for(runs_dir, run_name or "dry-run", cache_dir)
        show_plan(paths, settings_from(preset, config, overrides), gpus)
        return
    if gpus is not None:
        raise ConfigError("--gpus: expected --dry-run, too; a run is on the GPUs that are here, by resources.gpus")
    refuse_elsewhere("`opcod run`")
    if resume is not None:
        paths = paths_for(runs_dir, resume, cache_dir)
        settings = kept_settings(paths, preset, config, overrides)
        if not is_finished(paths.run_dir):
            require_disk(paths, settings)
    else:
        settings = settings_from(preset, config, overrides)
        base = preset or (None if config else DEFAULT_PRESET)
        paths = paths_for(runs_dir, run_name or new_run_name(base, config), cache_dir)
        require_rendezvous(settings, rendezvous)
        for note in check_settings(paths, settings):
            tell(console, f"note: {note}")
        create_run(paths, settings)
    raise typer.Exit(train(paths, settings, console, resumed=resume is not None, rendezvous=rendezvous))


def train(
    paths: Paths,
    settings: RunSettings,
    console: Console,
    *,
    resumed: bool,
    look: Look = lambda _: None,
    start_process: Launch = launch,
    rendezvous: str | None = None,
) -> int:
    """Everything between a run's directory and its report; returns the exit code. rendezvous: as of `Launcher`."""
    require_rendezvous(settings, rendezvous)
    told = told_of(pin_problems(paths, settings))
    timeline = Timeline(paths.run_dir)
    with run_lock(paths.run_dir), interruptible() as interrupted:
        tell(console, f"run {paths.run} in {paths.run_dir}")
        for note in told:
            tell(console, f"note: {note}")
        timeline.add(prepare_models(paths, settings, lambda what: tell(console, f"preparing: {what}"), interrupted))
        # Once, and not where going on needs no model here.
        for note in () if resumed else thinking_notes(paths, settings, prepared=True):
            tell(console, f"note: {note}")
        launcher = Launcher(paths, settings, "run", interrupted, start_process, rendezvous=rendezvous)
        for note in (*sharing(launcher.gpus, turns=settings.resources.turns), *replica_notes(settings)):
            tell(console, f"note: {note}")
        try:
            with timeline.stage("starting services"):
                deployment = launcher.start(lambda what: tell(console, f"starting: {what}"))
            tell(console, f"watch it: {page_of(deployment)}")
            # Who resumes a paused run has dealt with what it was paused for.
            reason = end_pause(deployment) if resumed else None
            if reason is not None:
                tell(console, f"the run was paused: {reason}; going on")
            state = _follow(launcher, paths, settings, console, interrupted, look)
            if interrupted():
                tell(console, "stopping…")
        finally:
            with timeline.stage("stopping services"):
                launcher.stop()
    return _end(paths, settings, state, timeline, launcher.restarts, console)


def require_rendezvous(settings: RunSettings, rendezvous: str | None) -> None:
    """Before hours of preparing. Raises ConfigError where other nodes would not find this one."""
    if settings.resources.nodes > 1:
        own_address(rendezvous_of(rendezvous, settings)[0])


def _follow(
    launcher: Launcher, paths: Paths, settings: RunSettings, console: Console, interrupted: Interrupted, look: Look
) -> RunState | None:
    assert launcher.deployment is not None
    bus = RedisBus(launcher.deployment.bus_url(), paths.run, deadline_s=settings.bus.deadline_s)
    try:
        with RunProgress(
            console, settings.run.rounds, settings.run.steps_per_round, len(services_of(settings, "run"))
        ) as progress:
            follower = Follower(launcher, bus, progress, after=launcher.events_before, look=look)
            return follower.until(interrupted)
    finally:
        bus.close()


def _end(
    paths: Paths,
    settings: RunSettings,
    state: RunState | None,
    timeline: Timeline,
    restarts: dict[str, int],
    console: Console,
) -> int:
    if state is None:
        raise OpcodError(f"the run did not begin; the services' logs are in {paths.run_dir / 'logs'}")
    report = write_report(paths, settings, state, timeline.spent, restarts)
    again = f"opcod run --resume {paths.run} --runs-dir {paths.runs_dir}"
    if state.status is Status.DONE:
        print_report(report, console)
        tell(console, f"report: {paths.run_dir / 'report' / 'report.md'}")
        return 0
    steps = ", ".join(f"{student} {count} steps" for student, count in sorted(state.steps.items()))
    tell(console, f"saved: {steps}; round {state.round} is {state.status.value}. Go on with `{again}`.")
    # After the report, which is written of any run: it is what one looks into to see what happened.
    if state.status is Status.FAILED or state.paused is not None:
        raise OpcodError(f"the run stands: {state.failed or state.paused}")
    return EXIT_INTERRUPTED


class Follower:
    """Polls the run's Redis once a second; reads state and events, writes nothing."""

    def __init__(
        self, launcher: Launcher, bus: RedisBus, progress: RunProgress, *, after: str, look: Look = lambda _: None
    ) -> None:
        self._launcher = launcher
        self._bus = bus
        self._progress = progress
        self._cursor = after
        self._watched = look
        self.state: RunState | None = None

    def until(self, stopped: Callable[[], bool]) -> RunState | None:
        """Until the run is DONE, FAILED or paused, or `stopped`; returns its last state.

        Raises ProcessFailedError when a service does not stay up.
        """
        while not stopped():
            for name in self._launcher.watch():
                self._progress.say(f"{name} ended and was started again")
            self._watched(self._launcher.pids())
            with contextlib.suppress(UnavailableError):  # the launcher starts Redis again; the services wait for it
                self._look()
            if self.state is not None and _stands(self.state):
                break
            time.sleep(POLL_S)
        return self.state

    def _look(self) -> None:
        text = self._bus.load_state()
        if text is not None:
            self.state = RunState.model_validate_json(text)
            self._progress.update(self.state, self._bus.heartbeats())
        found = self._bus.read_events(self._cursor, count=EVENTS_AT_ONCE, block_s=0)
        if found:
            self._cursor = found[-1][0]
            self._progress.events([event for _, event in found])


def _stands(state: RunState) -> bool:
    return state.paused is not None or state.status in (Status.DONE, Status.FAILED)
