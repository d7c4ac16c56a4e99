"""The broker: owns one run. The only writer of its state.

    reports.py    what students and trainers said, read off the queue `results`        (in)
    http/         what people and clients ask: runs, peers, the ask flow, OpenAI's chat  (in)
    machine/      what follows from it: a pure function of state and event               (core)
    exchange/     grades and verdicts, groups read back, batches written, events told    (out)
    dispatch.py   commands become jobs, and every prompt is built                        (out)
    recovery.py   where a run is taken up again
    upkeep.py     who serves what, whether all render alike, queue depths, retention, payloads left over

`app.py` puts it together; `runner.py` drives: one report is one event is one commit, in which state, jobs and the
report's acknowledgement move together. Files are written before the message that names them.

Begin with `machine/__init__.py`, then `runner.py`.
"""
