"""Every exchange of a filter as JSON Lines or Parquet, page by page: no long read holds the store, nothing piles up in
memory.

What is exported is what was there when it began; each line or row is an ExchangeView, oldest first.
"""

import importlib.util
from collections.abc import Iterator
from typing import Literal

from services.inspector.http.views import ExchangeView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.store import Store
from shared.errors import ConfigError

PAGE = 500

Format = Literal["jsonl", "parquet"]
MEDIA_TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


def exported(store: Store, wanted: ExchangeFilter, format_: Format) -> Iterator[bytes]:
    """The file, piece by piece. Raises ConfigError at once where Parquet cannot be written here."""
    # No generator itself: one would raise only at its first piece, when the answer's status is already sent.
    if format_ == "jsonl":
        return exchange_lines(store, wanted)
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "parquet: expected pyarrow to write it with, it is not installed; `pip install -c constraints.txt -e "
            "'.[export]'` in the project's folder brings it, and jsonl needs nothing"
        )
    from services.inspector.http.parquet import exchange_rows

    return exchange_rows(exchange_pages(store, wanted))


def exchange_lines(store: Store, wanted: ExchangeFilter) -> Iterator[bytes]:
    for page in exchange_pages(store, wanted):
        yield b"".join(exchange.model_dump_json().encode() + b"\n" for exchange in page)


def exchange_pages(store: Store, wanted: ExchangeFilter) -> Iterator[list[ExchangeView]]:
    # The end is fixed first: in a run that is going on, an export up to the newest would chase it.
    newest, after = store.newest_exchange_id(), 0
    while after < newest:
        page = store.exchanges_between(wanted, after=after, upto=newest, limit=PAGE)
        if not page:
            return
        yield page
        # By id and not by an offset: rows that come in meanwhile shift no page.
        after = page[-1].id
