"""The `opcod` command: one entry, one file a command under commands/."""

import atexit
import contextlib
import gc
import io
import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from opcod.commands.ask import ask
from opcod.commands.bundle import bundle
from opcod.commands.compare import compare
from opcod.commands.compose import compose
from opcod.commands.dlq import app as dlq
from opcod.commands.doctor import doctor
from opcod.commands.eval import evaluate_student
from opcod.commands.export import export
from opcod.commands.feedback import app as feedback
from opcod.commands.gpu_check import gpu_check
from opcod.commands.join import join
from opcod.commands.k8s import k8s
from opcod.commands.keys import keys
from opcod.commands.model import model
from opcod.commands.prepare import prepare
from opcod.commands.probe import probe_pair
from opcod.commands.problems import app as problems
from opcod.commands.replay import replay
from opcod.commands.report import report
from opcod.commands.run import run
from opcod.commands.sbatch import sbatch
from opcod.commands.specialize import specialize
from opcod.commands.status import status
from opcod.commands.track import track
from opcod.commands.up import up
from opcod.commands.weights import app as weights
from shared.errors import EXIT_IO, OpcodError, file_fault
from shared.obs.logging import configure_logging

# As Python ends it looks for garbage in all that is alive, which takes as long as a third of a command.
atexit.register(gc.freeze)

app = typer.Typer(
    name="opcod",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"opcod {version('opcod')}")
        raise typer.Exit


@app.callback()
def opcod(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """On-Policy Co-Distillation: language models tutor each other, and all improve.

    Begin with `opcod run`: it needs no settings and no GPU. Then `opcod ask "…"`.
    """


TRAIN = "Train"
WATCH = "Watch, ask, act"
RESULTS = "Results"
MACHINES = "Machines and deployments"

app.command("run", rich_help_panel=TRAIN)(run)
app.command("probe", rich_help_panel=TRAIN)(probe_pair)
app.command("compare", rich_help_panel=TRAIN)(compare)
app.command("specialize", rich_help_panel=TRAIN)(specialize)
app.add_typer(problems, name="problems", rich_help_panel=TRAIN)
app.command("status", rich_help_panel=WATCH)(status)
app.add_typer(feedback, name="feedback", rich_help_panel=WATCH)
app.command("up", rich_help_panel=WATCH)(up)
app.command("ask", rich_help_panel=WATCH)(ask)
app.command("track", rich_help_panel=WATCH)(track)
app.command("report", rich_help_panel=RESULTS)(report)
app.command("eval", rich_help_panel=RESULTS)(evaluate_student)
app.command("export", rich_help_panel=RESULTS)(export)
app.command("bundle", rich_help_panel=RESULTS)(bundle)
app.command("replay", rich_help_panel=RESULTS)(replay)
app.add_typer(weights, name="weights", rich_help_panel=RESULTS)
app.command("doctor", rich_help_panel=MACHINES)(doctor)
app.command("gpu-check", rich_help_panel=MACHINES)(gpu_check)
app.command("model", rich_help_panel=MACHINES)(model)
app.command("prepare", rich_help_panel=MACHINES)(prepare)
app.command("keys", rich_help_panel=MACHINES)(keys)
app.command("compose", rich_help_panel=MACHINES)(compose)
app.command("k8s", rich_help_panel=MACHINES)(k8s)
app.command("join", rich_help_panel=MACHINES)(join)
app.command("sbatch", rich_help_panel=MACHINES)(sbatch)
app.add_typer(dlq, name="dlq", rich_help_panel=MACHINES)


def main() -> None:
    """Errors raised on purpose, and those of the system about a file or the output, become one clear message on stderr
    and their exit code. What a terminal cannot show is shown by its code points: it ends no command."""
    # Texts of models hold any character, and a terminal or a pipe may be ASCII.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # What the command's own parts log is no output of it, and ends it no more than a service where a disk is full.
    with contextlib.suppress(io.UnsupportedOperation):  # of a stream that is no file
        configure_logging(json=False, service="opcod")
    try:
        app()
    except OpcodError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        told = file_fault(error)
        if told is None:
            raise
        _end(told, EXIT_IO)
    finally:
        _drop_unwritten()


def _end(error: str, code: int) -> NoReturn:
    # Standard error may go to the same full disk.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {error}\n")
    sys.exit(code)


def _drop_unwritten() -> None:
    # Python would try again at its end, and then end with a code of its own, 120.
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
