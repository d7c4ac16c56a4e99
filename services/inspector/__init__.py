"""The inspector: keeps the log of a run and shows it. Reads only; may die without hurting a run.

    ingest.py     the stream of events, into the store                                    (in)
    store/        SQLite: the log, the exchanges taken from it, traces and sealed texts   (core)
    run/          a run at a glance: scores, gate, verdicts, steps; other runs beside it  (core)
    http/         JSON: exchanges with filters, live stream, export; acts go on to the broker  (out)
    web/          the page                                                                (out)

`app.py` puts it together. The store can be deleted: it is made again from the stream, or from a run's files.

Begin with `store/records.py`, then `http/api.py`.
"""
