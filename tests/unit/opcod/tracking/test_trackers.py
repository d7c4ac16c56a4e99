"""A whole run in each tracker of experiments: what its library is called with, and the tables it is given."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from opcod.talk.exchanges import StoredExchanges
from opcod.tracking.figures import figures
from opcod.tracking.sinks import SINKS, MlflowSink
from opcod.tracking.tables import EXCHANGE_COLUMNS, TRACE_COLUMNS, step_tables
from opcod.tracking.trackers import TARGETS, open_tracker
from shared.contracts.acting import ExchangeRef
from shared.contracts.events import Event, FeedbackGiven, Revised
from shared.errors import ConfigError, UnavailableError
from tests.fakes.broker import RUN
from tests.fakes.traces import write_trace

SHOWN = 3


class Library(ModuleType):
    """A tracker's package, as far as it is used: what it was called with, by function."""

    def __init__(self, name: str, *functions: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for function in functions:
            setattr(self, function, self._noting(function))

    def _noting(self, function: str) -> Any:
        def note(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((function, args, kwargs))
            return self if function in ("SummaryWriter", "init") else kwargs

        return note

    def of(self, function: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for name, args, kwargs in self.calls if name == function]


def follow(to: str, log: list[Event], run_dir: Path, told: StoredExchanges, shown: int = SHOWN) -> None:
    tracker = open_tracker(to, run_dir, told, shown)
    for event in log:
        tracker.take(event)
    tracker.close()


def steps_in(log: list[Event]) -> list[tuple[str, int]]:
    return [(event.student, event.step) for event in log if event.kind == "step"]


def all_figures(log: list[Event]) -> list[dict[str, float]]:
    return [values for _, values in _figures_at(log)]


def answered_again(log: list[Event]) -> dict[tuple[str, int], float]:
    """By student and step, how many were."""
    of = Counter((event.student, event.step) for event in log if isinstance(event, Revised) and event.told)
    return {key: float(count) for key, count in of.items()}


def again_in(sent: Iterable[tuple[int, dict[str, float]]]) -> dict[tuple[str, int], float]:
    """The same, of figures that were sent."""
    found = {}
    for step, values in sent:
        again = {name: value for name, value in values.items() if "/revised_" in name}
        if again:
            found[next(iter(again))[0], step] = sum(again.values())
    return found


def test_a_steps_table_has_those_that_answered_again_first_and_the_same_each_time(
    log: list[Event], told: StoredExchanges
) -> None:
    given = {_key(event): event for event in log if isinstance(event, FeedbackGiven)}
    again = {_key(event): event for event in log if isinstance(event, Revised) and event.told}
    # A step in which some answered again, and not all.
    student, step = next(
        of for of in steps_in(log) if 0 < sum(key[:2] == of for key in again) < sum(key[:2] == of for key in given)
    )
    answered = sum(key[:2] == (student, step) for key in again)
    (table,) = step_tables(told, student, step, answered + 1)
    assert table.title == f"{student}/exchanges" and [column.title for column in table.columns] == list(
        EXCHANGE_COLUMNS
    )
    rows = [dict(zip(EXCHANGE_COLUMNS, row, strict=True)) for row in table.rows]
    assert [row["answer after"] is None for row in rows] == [False] * answered + [True]
    for row in rows:
        key = _parsed(str(row["exchange"]))
        event = given[key]
        assert (row["problem"], row["answer"], row["said"]) == (event.question, event.response, event.raw)
        assert (row["let through"], row["verdict"]) == (event.delivered, event.verdict)
        assert row["right before"] == ("yes" if event.correct else "no")
        if (new := again.get(key)) is not None:
            assert (row["answer after"], row["right after"]) == (new.text, "yes" if new.after else "no")
    assert list(step_tables(told, student, step, answered + 1)) == [table]
    assert list(step_tables(told, student, 99, 3)) == []


def _key(event: FeedbackGiven | Revised) -> tuple[str, int, str, int]:
    return event.student, event.step, event.problem_id, event.sample


def _parsed(exchange: str) -> tuple[str, int, str, int]:
    ref = ExchangeRef.parse(exchange)
    return ref.student, ref.step, ref.problem_id, ref.sample


def test_traced_tokens_are_a_table_of_their_own(told: StoredExchanges, run_dir: Path) -> None:
    (table,) = step_tables(told, "a", 1, 1)
    first = str(table.rows[0][0])
    _, _, problem, sample = _parsed(first)
    path = write_trace(run_dir, sample, problem, run=RUN)
    try:
        _, traces = step_tables(told, "a", 1, 1)
    finally:
        path.unlink()
    assert traces.title == "a/traces" and [column.title for column in traces.columns] == list(TRACE_COLUMNS)
    assert [row[:3] for row in traces.rows] == [[first, "The", 0.3], [first, " force", 0.3]]
    assert traces.rows[0][3] == '"The" 0.90, "<b>" 0.10'


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_those_of_wandbs_make_get_every_figure_once_and_a_table_a_step(
    package: str, log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = ("init", "log", "Table", "finish", *(["define_metric"] if package == "wandb" else []))
    library = Library(package, *functions)
    monkeypatch.setitem(sys.modules, package, library)
    follow(package, log, run_dir, told)
    assert library.of("init") == [((), {"project": "opcod", "name": RUN})]
    logged = [args[0] for args, _ in library.of("log")]
    plain = [each for each in logged if not any("exchanges" in name or "revised" in name for name in each)]
    assert plain == all_figures(log)
    again = [each for each in logged if any("revised" in name for name in each)]
    assert again_in((int(next(iter(each.values()))), each) for each in again) == answered_again(log)
    tables = [(name, each) for each in logged for name in each if name.endswith("/exchanges")]
    assert sorted((name[0], each[f"{name[0]}/step"]) for name, each in tables) == sorted(steps_in(log))
    assert all(each[name]["columns"] == list(EXCHANGE_COLUMNS) for name, each in tables)
    assert all(len(each[name]["data"]) == SHOWN for name, each in tables)
    axes = {("a/step",), ("b/step",), ("gate/round",), ("a/*",), ("b/*",), ("gate/*",)}
    assert {args for args, _ in library.of("define_metric")} == (axes if package == "wandb" else set())
    assert len(library.of("finish")) == 1


def test_tensorboard_gets_scalars_at_their_steps_and_tables_in_markdown(
    log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library("tensorboardX", "SummaryWriter", "add_scalar", "add_text", "close")
    monkeypatch.setitem(sys.modules, "tensorboardX", library)
    follow("tensorboard", log, run_dir, told)
    assert library.of("SummaryWriter") == [((str(run_dir / "tensorboard"),), {})]
    wanted = [(name, value, at) for at, values in _figures_at(log) for name, value in values.items()]
    scalars = [args for args, _ in library.of("add_scalar")]
    again = {(name[0], at): 0.0 for name, _, at in scalars if "revised" in name}
    for name, value, at in scalars:
        if "revised" in name:
            again[name[0], at] += value
    assert again == answered_again(log)
    # A step of its own for them repeats its axis.
    assert [each for each in dict.fromkeys(scalars) if "revised" not in each[0]] == list(dict.fromkeys(wanted))
    texts = [args for args, _ in library.of("add_text")]
    assert sorted((name[0], at) for name, _, at in texts) == sorted(steps_in(log))
    for _, text, _ in texts:
        lines = text.strip().split("\n")
        assert len(lines) == 2 + SHOWN and lines[0] == "| " + " | ".join(EXCHANGE_COLUMNS) + " |"
        cells = [line.replace("\\|", "").count("|") for line in lines]
        assert cells == [len(EXCHANGE_COLUMNS) + 1] * len(lines)


def test_mlflow_gets_figures_by_step_and_rows_added_to_one_table_a_student(
    log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library("mlflow", "set_experiment", "start_run", "log_metrics", "log_table", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setitem(sys.modules, "pandas", ModuleType("pandas"))
    follow("mlflow", log, run_dir, told)
    sent = [(kwargs["step"], args[0]) for args, kwargs in library.of("log_metrics")]
    assert [(at, values) for at, values in sent if not any("revised" in name for name in values)] == _figures_at(log)
    assert again_in(sent) == answered_again(log)
    tables = [args for args, _ in library.of("log_table")]
    assert sorted((file[0], data["step"][0]) for data, file in tables) == sorted(steps_in(log))
    assert {file for _, file in tables} == {"a/exchanges.json", "b/exchanges.json"}
    assert all({len(column) for column in data.values()} == {SHOWN} for data, _ in tables)
    json.dumps(tables)
    assert len(library.of("end_run")) == 1


def test_mlflow_gets_names_that_it_takes_and_each_domain_its_own() -> None:
    library = Library("mlflow", "set_experiment", "start_run", "log_metrics")
    sink = MlflowSink(library, "pair")
    domains = ("optics", "C++", "C--", "C&&", "gases (ideal)", "物理", "solids/")
    for _ in range(2):
        sink.figures({f"a/test/{domain}": 1.0 for domain in domains}, 3)
    [first, again] = [list(args[0]) for args, _ in library.of("log_metrics")]
    assert first == again
    names = ("optics", "C__", "C--", "C__-2", "gases _ideal_", "物理", "solids")
    assert first == [f"a/test/{name}" for name in names]


def _figures_at(log: list[Event]) -> list[tuple[int, dict[str, float]]]:
    return [(found.at, dict(found.values)) for event in log if (found := figures(event)) is not None]


def test_no_exchanges_are_shown_where_none_are_wanted(
    log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library("trackio", "init", "log", "Table", "finish")
    monkeypatch.setitem(sys.modules, "trackio", library)
    follow("trackio", log, run_dir, told, shown=0)
    assert len(library.of("log")) == len(all_figures(log)) + len(answered_again(log))
    assert library.of("Table") == []


class Away(Library):
    """A package whose tool takes so many calls of a function and then is gone."""

    def __init__(self, fails: str, after: int, *functions: str) -> None:
        super().__init__("mlflow", *functions)
        self._fails = fails
        self._after = after

    def _noting(self, function: str) -> Any:
        note = super()._noting(function)

        def fail(*args: Any, **kwargs: Any) -> Any:
            note(*args, **kwargs)
            if function == self._fails and len(self.of(function)) > self._after:
                raise RuntimeError("connection refused\nby its host")

        return fail


@pytest.mark.parametrize(
    ("fails", "after"), [("set_experiment", 0), ("log_metrics", 3), ("log_table", 1), ("end_run", 0)]
)
def test_a_tool_that_fails_is_told_in_a_line_and_gets_nothing_more(
    fails: str, after: int, log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Away(fails, after, "set_experiment", "start_run", "log_metrics", "log_table", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setitem(sys.modules, "pandas", ModuleType("pandas"))
    with pytest.raises(UnavailableError, match=r"--to mlflow: .*got RuntimeError: connection refused by its host"):
        follow("mlflow", log, run_dir, told)
    assert library.calls[-1][0] == fails and len(library.of(fails)) == after + 1


def test_what_follows_a_failure_is_not_sent(
    log: list[Event], run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Away("log_metrics", 0, "set_experiment", "start_run", "log_metrics", "log_table", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", library)
    monkeypatch.setitem(sys.modules, "pandas", ModuleType("pandas"))
    tracker = open_tracker("mlflow", run_dir, told, SHOWN)
    with pytest.raises(UnavailableError):
        for event in log:
            tracker.take(event)
    sent = len(library.calls)
    tracker.close()
    assert len(library.calls) == sent


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("comet", f"expected one of {', '.join(TARGETS)}, got 'comet'"),
        ("wandb", "`pip install wandb`"),
        ("trackio", "`pip install trackio`"),
        ("tensorboard", "`pip install tensorboardX`"),
        ("mlflow", "`pip install mlflow`"),
        ("otlp", r"`pip install -c constraints.txt -e '.\[trace\]'`"),
    ],
)
def test_what_cannot_be_sent_to_is_refused(
    to: str, reason: str, run_dir: Path, told: StoredExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (*SINKS, "tensorboardX", "pandas", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(ConfigError, match=reason):
        open_tracker(to, run_dir, told, SHOWN)
