"""A student: serves one model, to the run's queues and to people.

    work/jobs.py  which jobs are taken, how much at once, and what must still be told     (in)
    http/         people: OpenAI's chat, the feedback endpoint, one at a time             (in)
    work/         the engine's thread: jobs and people become requests                    (core)
    engines/      behind one port: transformers, a vLLM server, scripted                  (core)
    weights/      versions are checked, loaded, swapped and let go                        (out)
    board.py      what the other threads may know of the engine's

`app.py` puts it together. One thread alone touches the engine; a request is bound to one version before it waits, so
no answer mixes two.

Begin with `work/worker.py`, then `engines/port.py`.
"""
