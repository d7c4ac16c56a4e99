"""A student: serves one model, to the run's queues and to people.

    work/jobs.py        which jobs are taken, how much at once, and what must still be told    (in)
    work/duty.py        what a replica takes first, where replicas keep a version each
    http/               people: OpenAI's chat, feedback on an answer; interactive.py queues them (in)
    work/worker.py      the engine's thread: turn by turn, jobs and questions become calls     (core)
    work/calls.py       the engine's calls under way, and the reasons to cancel one
    work/generation.py  from a job to requests, and from generations to its output
    engines/            behind one port: transformers, a vLLM server, scripted                 (core)
    weights/            versions are checked, loaded, swapped and let go                       (out)
    board.py            what the other threads may know of the engine's
    answer_file.py      a process of its own: answers questions from a file, without a bus

`app.py` puts it together. One worker drives every engine. What always holds: one thread alone loads versions and starts
calls; a request is bound to one version before it waits, so no answer mixes two; a job ends exactly once.

Begin with `work/worker.py`, then `engines/port.py`.
"""
