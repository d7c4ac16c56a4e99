"""Trackers of experiments, each behind the same three methods. A tool's own address, project and keys are told by its
own environment variables."""

import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from shared.errors import OpcodError, UnavailableError, reason
from shared.installed import optional
from shared.results.grid import Grid, markdown

PROJECT = "opcod"
TENSORBOARD_DIR = "tensorboard"
"""Below the run's directory."""


class Sink(Protocol):
    """Where a run's figures and tables go. at: the step of a student, or the round of the gate."""

    def figures(self, values: Mapping[str, float], at: int) -> None: ...

    def table(self, table: Grid, at: int) -> None:
        """Its title is the name that it is logged under, as a figure's is."""
        ...

    def close(self) -> None: ...


def open_sink(to: str, run_dir: Path) -> Sink:
    """to: one of SINKS. Raises ConfigError where its package is not installed, UnavailableError if the tool fails."""
    with _told(to):
        return ToldSink(to, SINKS[to](run_dir))


class ToldSink:
    """Another sink, whose tool's failures are told in one line: the tools raise what they like.

    Raises UnavailableError, once: nothing is sent after it, as a record with a hole would look whole.
    """

    def __init__(self, to: str, sink: Sink) -> None:
        self._to = to
        self._sink = sink
        self._failed = False

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """See Sink."""
        self._do(lambda: self._sink.figures(values, at))

    def table(self, table: Grid, at: int) -> None:
        """See Sink."""
        self._do(lambda: self._sink.table(table, at))

    def close(self) -> None:
        """See Sink."""
        self._do(self._sink.close)

    def _do(self, send: Callable[[], None]) -> None:
        if self._failed:
            return
        self._failed = True
        with _told(self._to):
            send()
        self._failed = False


@contextmanager
def _told(to: str) -> Iterator[None]:
    failure: Exception | None = None
    try:
        yield
    except OpcodError:
        raise
    except Exception as error:  # noqa: BLE001 - boundary to a tool of others, which has no errors of one kind
        failure = error
    if failure is not None:
        raise UnavailableError(
            f"--to {to}: expected it to take figures and tables, got {type(failure).__name__}: {reason(failure)}. The "
            f"run goes on as before. See to the tool's address and key, then `opcod track --to {to}` sends all of it "
            "again, as another run there"
        ) from failure


class WandbSink:
    """W&B, or what has its functions, as Trackio by design: a table for each step, under one name."""

    def __init__(self, library: Any, run: str) -> None:
        self._library = library
        self._has_axis: set[str] = set()
        library.init(project=PROJECT, name=run)

    def figures(self, values: Mapping[str, float], at: int) -> None:  # noqa: ARG002
        """See Sink; the axis is the first of the values."""
        # A tool's own axis counts calls; a figure is to be drawn over the step of its student.
        self._define(next(iter(values)))
        self._library.log(dict(values))

    def table(self, table: Grid, at: int) -> None:
        """See Sink."""
        columns = [column.title for column in table.columns]
        made = self._library.Table(columns=columns, data=[list(row) for row in table.rows])
        student = table.title.partition("/")[0]
        self._library.log({table.title: made, f"{student}/step": float(at)})

    def close(self) -> None:
        """See Sink."""
        self._library.finish()

    def _define(self, axis: str) -> None:
        """Students' steps do not advance together, so that the tool's own counter is no axis for any of them."""
        if axis not in self._has_axis and hasattr(self._library, "define_metric"):
            self._library.define_metric(axis)
            self._library.define_metric(f"{axis.partition('/')[0]}/*", step_metric=axis)
        self._has_axis.add(axis)


class TensorBoardSink:
    """Event files below the run's directory; tables are texts in Markdown. writer: a SummaryWriter."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """See Sink."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, at)

    def table(self, table: Grid, at: int) -> None:
        """See Sink."""
        rows = [[_one_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows]
        # Without the heading and the line behind it: the name is shown as it is.
        _, _, *lines = markdown(replace(table, rows=rows))
        self._writer.add_text(table.title, "\n".join(lines), at)

    def close(self) -> None:
        """See Sink."""
        self._writer.close()


_REFUSED_BY_MLFLOW = re.compile(r"[^/\w.\- ]")


class MlflowSink:
    """MLflow: a table for each name, to which every step adds its rows."""

    def __init__(self, library: Any, run: str) -> None:
        self._library = library
        self._names: dict[str, str] = {}
        library.set_experiment(PROJECT)
        library.start_run(run_name=run)

    def figures(self, values: Mapping[str, float], at: int) -> None:
        """See Sink."""
        self._library.log_metrics({self._taken(name): value for name, value in values.items()}, step=at)

    def table(self, table: Grid, at: int) -> None:
        """See Sink."""
        columns = {"step": [at] * len(table.rows)}
        cells: dict[str, list[Any]] = {
            column.title: [row[number] for row in table.rows] for number, column in enumerate(table.columns)
        }
        self._library.log_table({**columns, **cells}, f"{table.title}.json")

    def close(self) -> None:
        """See Sink."""
        self._library.end_run()

    def _taken(self, name: str) -> str:
        """The name as MLflow takes it, as a path without detours, of few signs; domains are named as people like."""
        if name not in self._names:
            plain = posixpath.normpath(_REFUSED_BY_MLFLOW.sub("_", name))
            # Two domains are never one curve, however alike their names are by now.
            candidates = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
            taken = self._names.values()
            self._names[name] = next(each for each in candidates if each not in taken)
        return self._names[name]


def _one_cell(text: str) -> str:
    """A text that ends no cell and no row of a table in Markdown."""
    return text.replace("|", "\\|").replace("\n", " ⏎ ")


def _tensorboard(run_dir: Path) -> Sink:
    writer = optional("tensorboardX", "pip install tensorboardX").SummaryWriter
    return TensorBoardSink(writer(str(run_dir / TENSORBOARD_DIR)))


def _mlflow(run_dir: Path) -> Sink:
    # A table is made with pandas, which the skinny package leaves out.
    optional("pandas", "pip install mlflow")
    # Each table of a step would draw two bars of progress.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return MlflowSink(optional("mlflow", "pip install mlflow"), run_dir.name)


def _wandb(package: str) -> Callable[[Path], Sink]:
    return lambda run_dir: WandbSink(optional(package, f"pip install {package}"), run_dir.name)


SINKS: dict[str, Callable[[Path], Sink]] = {
    "wandb": _wandb("wandb"),
    "trackio": _wandb("trackio"),
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
}
