"""What a run kept as JSON Lines or Parquet, page by page: no long read holds the store, nothing piles up in memory.

What is exported is what was there when it began, oldest first; each line or row is of one contract: an exchange, a
critique made of one, or a preference pair made of sealed rollouts.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal

from pydantic import BaseModel

from services.inspector.http.training_rows import critiques, preference_pairs
from services.inspector.http.views import Critique, ExchangeView, PreferencePair
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.errors import ConfigError

PAGE = 500

Format = Literal["jsonl", "parquet"]
MEDIA_TYPES: dict[Format, str] = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}
SCHEMA: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            MEDIA_TYPES["jsonl"]: {"schema": {"type": "string"}},
            MEDIA_TYPES["parquet"]: {"schema": {"type": "string", "format": "binary"}},
        }
    }
}
"""What OpenAPI says of the answer."""
Rows = Literal["exchanges", "critiques", "preferences"]
CONTRACTS: dict[Rows, type[BaseModel]] = {
    "exchanges": ExchangeView,
    "critiques": Critique,
    "preferences": PreferencePair,
}
OF_A_PAIR = ("round", "step", "student", "domain", "problem_id")
"""What a filter may say of preference pairs, which are of rollouts: whether a tutor spoke is nothing to them."""


def exported(
    store: Store, sealed: SealedBatches, wanted: ExchangeFilter, format_: Format, rows: Rows = "exchanges"
) -> Iterator[bytes]:
    """The file, piece by piece. Raises ConfigError at once where Parquet cannot be written here, or the filter is not
    for these rows, and StorageError where these are of sealed batches and one is damaged."""
    # No generator itself: one would raise only at its first piece, when the answer's status is already sent.
    pages = _pages(store, sealed, wanted, rows)
    if format_ == "jsonl":
        return (b"".join(row.model_dump_json().encode() + b"\n" for row in page) for page in pages)
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "parquet: expected pyarrow to write it with, it is not installed; `pip install -c constraints.txt -e "
            "'.[export]'` in the project's folder brings it, and jsonl needs nothing"
        )
    from services.inspector.http.parquet import table

    return table(pages, CONTRACTS[rows])


def _pages(store: Store, sealed: SealedBatches, wanted: ExchangeFilter, rows: Rows) -> Iterable[Sequence[BaseModel]]:
    if rows == "exchanges":
        return exchange_pages(store, wanted)
    if rows == "critiques":
        return (list(critiques(page)) for page in exchange_pages(store, wanted))
    filter_ = _of_a_pair(wanted)
    return _pairs(sealed.groups(), filter_)


def exchange_pages(store: Store, wanted: ExchangeFilter) -> Iterator[list[ExchangeView]]:
    # The end is fixed first: in a run that is going on, an export up to the newest would chase it.
    newest, after, window = store.newest_exchange_id(), 0, PAGE
    while after < newest:
        # A search gathers all matches among its ids, however few are taken of them.
        upto = newest if wanted.q is None else min(newest, after + window)
        page = store.exchanges_between(wanted, after=after, upto=upto, limit=PAGE)
        if page:
            yield page
        full = len(page) == PAGE
        # By id and not by an offset: rows that come in meanwhile shift no page.
        after, window = (page[-1].id, PAGE) if full else (upto, 2 * window)


def _of_a_pair(wanted: ExchangeFilter) -> dict[str, object]:
    given = wanted.model_dump(include=set(ExchangeFilter.model_fields), exclude_none=True)
    if others := sorted(given.keys() - set(OF_A_PAIR)):
        raise ConfigError(
            f"{others[0]}: preference pairs are of rollouts, expected a filter of {', '.join(OF_A_PAIR)}; leave it out"
        )
    return given


def _pairs(
    groups: Iterable[tuple[BatchManifest, BatchGroup]], wanted: dict[str, object]
) -> Iterator[list[PreferencePair]]:
    found = chain.from_iterable(preference_pairs(manifest, group) for manifest, group in groups)
    chosen = (pair for pair in found if all(getattr(pair, name) == value for name, value in wanted.items()))
    while page := list(islice(chosen, PAGE)):
        yield page
