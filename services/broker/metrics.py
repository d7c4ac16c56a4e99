"""What a broker shows of its run. Labels are students, alarms and fixed words: their number stays small.

All follow from the run's state, so a restarted broker shows the same.
"""

from typing import get_args

from prometheus_client import Gauge

from services.broker.plan import Plan
from services.broker.silencing import break_count, is_silenced
from shared.contracts.diagnostics import AlarmName
from shared.contracts.run import RunState

ALARM = Gauge("opcod_broker_alarm", "1 while an alarm stands, 0 otherwise.", ["student", "alarm"])
BREAKS = Gauge(
    "opcod_broker_feedback_breaks",
    "Right rollouts revised with a tutor's feedback in this round, and of these the broken.",
    ["tutor", "tutee", "outcome"],
)
SILENCED = Gauge("opcod_broker_tutor_silenced", "1 while a tutor is silenced, 0 otherwise.", ["tutor", "tutee"])


def show(state: RunState, plan: Plan) -> None:
    """Set all gauges to what the state says."""
    for student, watch in state.watches.items():
        for alarm in get_args(AlarmName):
            ALARM.labels(student, alarm).set(alarm in watch.standing)
    for phase in state.phases:
        count = break_count(state, plan, phase.student, phase.tutor)
        BREAKS.labels(phase.tutor, phase.student, "revised").set(count.right)
        BREAKS.labels(phase.tutor, phase.student, "broke").set(count.broke)
        SILENCED.labels(phase.tutor, phase.student).set(is_silenced(state, phase.tutor, phase.student))
