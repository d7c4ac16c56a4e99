"""A trainer: one student's weights, by one process or several.

    consumer.py   takes sealed batches in order, under the student's lease               (in)
    lease.py      who may write: one trainer at a time                                    (in)
    batches.py    reads one, whole or not at all                                          (in)
    trainer.py    applies each exactly once                                               (core)
    work.py       what each rank does of a step; one rank does all of it                  (core)
    model/        the student's weights: what is trained, its teacher, the optimizer      (core)
    step/         rows, packs, trees, divergence, loss, updates: torch and nothing else   (core)
    ranks/        several ranks: what they tell each other, who leads, how they start     (edge)
    checkpoint.py the state on disk, and the version that follows from it                 (out)
    offline/      without a run's queues: specialists, replay, probe

`app.py` puts it together. The checkpoint is the one point from which a step counts as applied; versions are written
from it, and can be again.

Begin with `trainer.py`, then `step/step.py`.
"""
