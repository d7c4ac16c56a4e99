"""What a broker shows of its run. Labels are students, queues, alarms and fixed words: their number stays small.

All but the queues follow from the run's state, so a restarted broker shows the same.
"""

from typing import get_args

from prometheus_client import Counter, Gauge

from services.broker.machine.plan import Plan
from services.broker.machine.speaking import is_silenced
from services.broker.machine.watching import break_count
from shared.contracts.diagnostics import AlarmName
from shared.contracts.run import RunState, Status

STATUS = Gauge("opcod_broker_run_status", "1 for the status that the run is in, 0 for the others.", ["status"])
TRAINS = Gauge("opcod_broker_trains", "1 where the broker goes on with the run, 0 where it only serves it.")
PAUSED = Gauge("opcod_broker_run_paused", "1 while the run is paused, 0 otherwise.")
ROUND = Gauge("opcod_broker_round", "The round that the run is in.")
STEPS = Gauge("opcod_broker_steps", "Steps that a student has done over the run.", ["student"])
QUEUED = Gauge(
    "opcod_broker_queued", "Messages of a queue that wait, or that somebody has in hand.", ["queue", "place"]
)
DEAD_LETTERS = Gauge("opcod_broker_dead_letters", "Messages that no service could handle, at most 100.")
ALARM = Gauge("opcod_broker_alarm", "1 while an alarm stands, 0 otherwise.", ["student", "alarm"])
BREAKS = Gauge(
    "opcod_broker_feedback_breaks",
    "Right rollouts revised with a tutor's feedback in this round, and of these the broken.",
    ["tutor", "tutee", "outcome"],
)
PRUNING_FAILURES = Counter("opcod_broker_pruning_failures_total", "Times that old versions could not be pruned.")
SILENCED = Gauge("opcod_broker_tutor_silenced", "1 while a tutor is silenced, 0 otherwise.", ["tutor", "tutee"])


def show(state: RunState, plan: Plan) -> None:
    """Set all gauges to what the state says."""
    # Every label each time: one that is left alone would keep its last value for ever.
    for status in Status:
        STATUS.labels(status.value).set(state.status is status)
    PAUSED.set(state.paused is not None)
    ROUND.set(state.round)
    for student, steps in state.steps.items():
        STEPS.labels(student).set(steps)
    for student, watch in state.watches.items():
        for alarm in get_args(AlarmName):
            ALARM.labels(student, alarm).set(alarm in watch.standing)
    for phase in state.phases:
        for tutor in phase.tutors:
            count = break_count(state, plan, phase.student, tutor)
            BREAKS.labels(tutor, phase.student, "revised").set(count.right)
            BREAKS.labels(tutor, phase.student, "broke").set(count.broke)
            SILENCED.labels(tutor, phase.student).set(is_silenced(state, tutor, phase.student))
