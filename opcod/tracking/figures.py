"""The figures that an event brings for a tracker of experiments. Pure."""

from shared.contracts.events import AlarmRaised, BatchReady, Evaluated, Event, GateDecided, Revised, StepApplied


def figures(event: Event) -> dict[str, float]:
    """Names are `<student>/<what>` or `gate/…`; empty for events that bring none."""
    match event:
        case StepApplied(student=student, step=step, metrics=metrics):
            plain = {name: float(value) for name, value in metrics if isinstance(value, int | float)}
            stages = {f"seconds/{stage}": seconds for stage, seconds in metrics.seconds.items()}
            return {f"{student}/{name}": value for name, value in {"step": float(step), **plain, **stages}.items()}
        case BatchReady(student=student):
            return {
                f"{student}/mean_reward": event.mean_reward,
                f"{student}/feedback_share": event.kept_feedback / event.samples if event.samples else 0.0,
            }
        case Evaluated(student=student, split=split):
            return {f"{student}/{split}/{domain}": score for domain, score in event.scores.items()}
        case GateDecided(decision=decision):
            gaps = {f"gate/{student}/gap": gap for student, gap in decision.gaps.items()}
            return gaps | {f"gate/{student}/cognizant": float(yes) for student, yes in decision.cognizant.items()}
        case Revised(student=student, told=True, change=change):
            return {f"{student}/revised_{change}": 1.0}
        case AlarmRaised(student=student, alarm=alarm):
            return {f"{student}/alarm_{alarm}": 1.0}
    return {}
