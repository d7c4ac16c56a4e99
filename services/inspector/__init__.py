"""The inspector: keeps the log of a run and shows it. Reads only; may die without hurting a run.

    ingest.py     the stream of events, into the store                                    (in)
    sealing.py    batches that could not be read at once, into the store                  (in)
    tracing.py    the divergence of traced rollouts, into the store                       (in)
    looking.py    how both look again and again
    sampling.py   what services say that they use of their machines, into the store       (in)
    store/        SQLite: the log, the exchanges taken from it, traces, sealed texts, samples of use  (core)
    run/          a run at a glance, put together of log, state and bus; other runs beside it  (core)
    http/         JSON: exchanges with filters, live stream, export; acts go on to the broker  (out)
    web/          the page: `run_tables.py` has the tables of a run, `live.py` the feed   (out)

`app.py` puts it together: a thread ingests, one reads batches, one traces, one samples, one beats, and requests
read the store. Nothing here computes a score or a rate: those are `shared/results`, the same for the report. The store
can be deleted: but for the samples it is made again from the stream, or from a run's files.

Begin with `store/records.py`, then `http/api.py`.
"""
