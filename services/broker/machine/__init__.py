"""The run's state machine, pure: (state, event) -> (state, commands). No bus, file, clock or HTTP.

    machine.py    books an event, then asks what to do next
    moves.py      the events that come in and the commands that go out
    rounds.py     the stages of a round: evaluations, the gate, freezing the tutors
    phases.py     one student's steps: rollouts, feedback, sealing, swap
    books.py      issuing a job once, versions to serve, time spent
    watching.py   alarms, and when a tutor is silenced
    speaking.py   which tutor speaks about a problem
    sharing.py    students that train on each other's rollouts, step by step together
    acting.py     what a person asks of an exchange or a tutor
    plan.py       what the settings fix before the run begins

Events record what happened; commands are derived from the state alone. So a repeated, late or reordered event changes
nothing that is already so.
"""
