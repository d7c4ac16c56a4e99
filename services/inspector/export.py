"""Every exchange of a filter as JSON Lines, page by page: no long read holds the store, nothing piles up in memory.

What is exported is what was there when it began; each line is an ExchangeView, oldest first.
"""

from collections.abc import Iterator

from services.inspector.filters import ExchangeFilter
from services.inspector.store import Store

PAGE = 500


def exchange_lines(store: Store, wanted: ExchangeFilter) -> Iterator[bytes]:
    newest, after = store.newest_exchange_id(), 0
    while after < newest:
        page = store.exchanges_between(wanted, after=after, upto=newest, limit=PAGE)
        if not page:
            return
        yield b"".join(exchange.model_dump_json().encode() + b"\n" for exchange in page)
        after = page[-1].id
