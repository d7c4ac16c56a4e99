"""`opcod bundle`: a run as a static page that needs no server."""

from pathlib import Path
from typing import Annotated

import typer

from opcod.bundle.page import Excerpt, Shown, render
from opcod.options import CACHE_DIR, RUNS_DIR, RunsDir, paths_for
from opcod.report.writing import REPORT_FILE, current_report, report_directory
from opcod.talk.exchanges import StoredExchanges, filter_names, read_filter, run_directory
from services.inspector.http.views import ExchangeView, TraceView
from services.inspector.store.from_files import stored_run
from shared.errors import ConfigError, NotFoundError
from shared.files.durable import atomic_write
from shared.files.text import expanded

PAGE = "index.html"
DATA = "exchanges.jsonl"


def bundle(
    run_name: Annotated[str, typer.Argument(help="The run.", metavar="RUN")],
    out: Annotated[
        Path,
        typer.Option("--out", parser=expanded, metavar="PATH", help="A folder: new, empty, or of an earlier bundle."),
    ],
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="So many exchanges on the page, the newest ones.")
    ] = 1000,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help=f"name=value: which exchanges; may be repeated. Names: {filter_names()}."),
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write report, scores and exchanges as one static page that opens from a folder, without a server.

    The folder also has every exchange of the filter (exchanges.jsonl) and the report (report.json).

    Example: `opcod bundle RUN --out site/`
    """
    wanted = read_filter(filters or [])
    run_dir = run_directory(runs_dir, run_name)
    _check(out)
    report = current_report(paths_for(runs_dir, run_dir.name, CACHE_DIR))
    with stored_run(run_dir) as store:  # the files, also while it is up: a page asks for more than a key may
        exchanges = StoredExchanges(store, run_dir)
        data = b"".join(exchanges.export(wanted, "jsonl"))
        shown = [Shown(exchange, _trace(exchanges, exchange)) for exchange in exchanges.newest(wanted, limit)]
    part = Excerpt(shown, data.count(b"\n"))
    page = render(report, part, report_directory(run_dir))
    for name, content in (
        (DATA, data),
        (REPORT_FILE, report.model_dump_json(indent=1).encode()),
        (PAGE, page.encode()),
    ):
        atomic_write(out / name, content)
    typer.echo(f"written: {out / PAGE} ({len(part.shown)} of {part.total} exchanges on the page)")


def _trace(exchanges: StoredExchanges, exchange: ExchangeView) -> TraceView | None:
    try:
        return exchanges.trace(exchange)
    except NotFoundError:
        return None


def _check(out: Path) -> None:
    """Nothing of somebody else's is written over."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: expected a folder, {out} is a file")
    if out.is_dir() and any(out.iterdir()) and not (out / DATA).exists():
        raise ConfigError(f"--out: {out} holds something that is no bundle; name a new or an empty folder")
