"""The exchanges of a run: from its inspector while one is up, else from the run's directory. The same either way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from opcod.local.deployment import latest_run, live_deployment, require_run
from opcod.talk.client import Client
from services.inspector.http.export import Format, Rows, exported
from services.inspector.http.views import ExchangeView, FeedbackPage, TraceView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.from_files import stored_run
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from shared.contracts.acting import ExchangeRef
from shared.errors import MAX_SHOWN_CHARS, ConfigError, UnavailableError

Found = TypeVar("Found")


class Exchanges(Protocol):
    @property
    def of(self) -> str:
        """Which run they are of, and where they come from, for people."""
        ...

    def newest(self, wanted: ExchangeFilter, limit: int) -> Sequence[ExchangeView]:
        """Newest first; an inspector gives 200 at most."""
        ...

    def trace(self, exchange: ExchangeView) -> TraceView:
        """Raises NotFoundError with the reason where it was not traced."""
        ...

    def export(self, wanted: ExchangeFilter, format_: Format, rows: Rows = "exchanges") -> Iterator[bytes]: ...


class ServedExchanges:
    """Of an inspector that is up."""

    def __init__(self, client: Client, run: str) -> None:
        self._client = client
        self.of = f"run {run}, from its inspector"

    def newest(self, wanted: ExchangeFilter, limit: int) -> Sequence[ExchangeView]:
        """See Exchanges."""
        params = _params(wanted) | {"limit": str(limit)}
        return self._client.inspector("/v1/feedback", FeedbackPage, params).items

    def trace(self, exchange: ExchangeView) -> TraceView:
        """See Exchanges."""
        return self._client.inspector(f"/v1/feedback/{exchange.id}/trace", TraceView, {})

    def export(self, wanted: ExchangeFilter, format_: Format, rows: Rows = "exchanges") -> Iterator[bytes]:
        """See Exchanges."""
        return self._client.inspector_bytes("/v1/export", _params(wanted) | {"format": format_, "rows": rows})


class StoredExchanges:
    """Of the directory of a run; nothing need be up."""

    def __init__(self, store: Store, run_dir: Path) -> None:
        self._store = store
        self._sealed = SealedBatches(run_dir, run_dir.name)
        self._traces = Traces(run_dir, run_dir.name)
        self.of = f"run {run_dir.name}, from its directory"

    def newest(self, wanted: ExchangeFilter, limit: int) -> Sequence[ExchangeView]:
        """See Exchanges."""
        return self._store.newest_exchanges(wanted, before=None, limit=limit)

    def trace(self, exchange: ExchangeView) -> TraceView:
        """See Exchanges."""
        return self._traces.of(exchange)

    def export(self, wanted: ExchangeFilter, format_: Format, rows: Rows = "exchanges") -> Iterator[bytes]:
        """See Exchanges."""
        return exported(self._store, self._sealed, wanted, format_, rows)


class LastingExchanges:
    """Of an inspector, and from when it is gone of the run's directory: for who reads on while a run ends."""

    def __init__(self, served: Exchanges, stored: Callable[[], Exchanges]) -> None:
        """stored: opens those of the directory; called once."""
        self._now = served
        self._stored: Callable[[], Exchanges] | None = stored

    @property
    def of(self) -> str:
        """See Exchanges."""
        return self._now.of

    def newest(self, wanted: ExchangeFilter, limit: int) -> Sequence[ExchangeView]:
        """See Exchanges."""
        return self._asked(lambda exchanges: exchanges.newest(wanted, limit))

    def trace(self, exchange: ExchangeView) -> TraceView:
        """See Exchanges."""
        return self._asked(lambda exchanges: exchanges.trace(exchange))

    def export(self, wanted: ExchangeFilter, format_: Format, rows: Rows = "exchanges") -> Iterator[bytes]:
        """See Exchanges. One export never comes from both."""
        return self._now.export(wanted, format_, rows)

    def _asked(self, ask: Callable[[Exchanges], Found]) -> Found:
        try:
            return ask(self._now)
        except UnavailableError:
            if self._stored is None:
                raise
            self._now, self._stored = self._stored(), None
            return ask(self._now)


@contextmanager
def lasting_exchanges(runs_dir: Path, run: str) -> Iterator[Exchanges]:
    """Those of `open_exchanges`, and where that was an inspector which goes away, the directory's."""
    with ExitStack() as stack:

        def stored() -> Exchanges:
            run_dir = run_directory(runs_dir, run)
            return StoredExchanges(stack.enter_context(stored_run(run_dir)), run_dir)

        yield LastingExchanges(stack.enter_context(open_exchanges(runs_dir, run)), stored)


@contextmanager
def open_exchanges(runs_dir: Path, run: str | None) -> Iterator[Exchanges]:
    """Those of `run`; without a name, of the run that is up, or else of the one begun last."""
    try:
        deployment = live_deployment(runs_dir, run)
    except UnavailableError:
        # Only the look for a deployment falls back to the files. An inspector that is up and fails later raises, so
        # that one listing never comes from both.
        with stored_run(run_directory(runs_dir, run)) as store:
            yield StoredExchanges(store, run_directory(runs_dir, run))
        return
    client = Client(deployment)
    try:
        yield ServedExchanges(client, deployment.run)
    finally:
        client.close()


def run_directory(runs_dir: Path, run: str | None) -> Path:
    """Raises ConfigError if there is no such run, or none at all."""
    # Also a run that is over, or was made on another machine: its directory is enough.
    run_dir = runs_dir / (run or latest_run(runs_dir))
    require_run(run_dir)
    return run_dir


def filter_names() -> str:
    """What `--filter name=value` may name, for people."""
    return ", ".join(ExchangeFilter.model_fields)


def read_filter(given: Sequence[str]) -> ExchangeFilter:
    """From `name=value` words. Raises ConfigError naming what is wrong and the names there are."""
    for word in given:
        if "=" not in word:
            raise ConfigError(
                f"--filter: expected name=value, such as verdict=no_match, got {word[:MAX_SHOWN_CHARS]!r}"
            )
    # At the first = only: a value may have more of them.
    pairs = dict(word.split("=", 1) for word in given)
    try:
        return ExchangeFilter.model_validate(pairs)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--filter {'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}; "
            f"expected name=value with a name of {filter_names()}"
        ) from error


def named_exchange(exchanges: Exchanges, key: str) -> ExchangeView:
    """The exchange called so, as `a.s3.ether-train-004.2`. Raises ConfigError if there is none."""
    try:
        wanted = ExchangeFilter.model_validate(ExchangeRef.parse(key).model_dump())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    found = exchanges.newest(wanted, 1)
    if not found:
        raise ConfigError(f"there is no exchange {key} in {exchanges.of}; `opcod feedback tail` names some")
    return found[0]


def _params(wanted: ExchangeFilter) -> dict[str, str]:
    given = wanted.model_dump(exclude_none=True)
    # As a query writes them: Python would say True.
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}
