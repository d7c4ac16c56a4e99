"""Settings that are each in order and contradict one another. Pure."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.config.settings import RunSettings


def refuse_contradictions(settings: "RunSettings") -> None:
    """Raises ValueError naming the setting to change."""
    run, gate, students = settings.run, settings.gate, settings.students
    if sorted(students) != ["a", "b"]:
        raise ValueError(f"students: expected a and b, got {', '.join(students) or 'none'}")
    if students["a"].domain == students["b"].domain:
        raise ValueError("students: a and b need different domains; each tutors in its own")
    for name, student in sorted(students.items()):
        if student.examples is not None and not student.specialize:
            raise ValueError(f"students.{name}.examples: without students.{name}.specialize = true they are not used")
    if settings.optimizer.mini_batches > settings.problems.per_step:
        raise ValueError("optimizer.mini_batches: at most problems.per_step, since a group is never split")
    if settings.problems.balance_domains and settings.problems.per_step % 2:
        raise ValueError("problems.per_step: must be even when problems.balance_domains is on")
    if run.method != "opcod" and gate.mode in ("always", "domain_selective"):
        raise ValueError(
            f"gate.mode: {gate.mode!r} lets students tutor, run.method = {run.method!r} has no tutors; set "
            "gate.mode = 'cognizance', or run.method = 'opcod'"
        )
    if gate.tutor_source == "latest" and run.schedule == "parallel":
        raise ValueError(
            "gate.tutor_source: 'latest' is the student that the phase before has trained, and in parallel there is "
            "none; set run.schedule = 'sequential'"
        )
    _refuse_full_weights(settings)
    if gate.hysteresis > gate.tau:
        raise ValueError("gate.hysteresis: at most gate.tau, or who may not tutor never could again")
    if settings.feedback.prompt == "naive" and settings.problems.format != "mcq":
        raise ValueError(
            f"feedback.prompt: the format {settings.problems.format!r} has one prompt, which asks for a concept; "
            "'naive' needs problems.format = 'mcq'"
        )


def _refuse_full_weights(settings: "RunSettings") -> None:
    """What only adapters can do."""
    if settings.run.weights != "full":
        return
    on_vllm = [name for name, student in sorted(settings.students.items()) if student.engine == "vllm"]
    if on_vllm and settings.run.schedule == "parallel":
        raise ValueError(
            f"run.weights: the vLLM server of student {on_vllm[0]} holds one set of full weights at a time, and in "
            "parallel it would serve two, the student in training and the tutor; set run.schedule = 'sequential', or "
            f"students.{on_vllm[0]}.engine = 'transformers'"
        )
    found = [name for name in on_vllm if settings.students[name].vllm.url is not None]
    if found:
        raise ValueError(
            f"students.{found[0]}.vllm.url: full weights are read in place of what a server holds, so it must serve "
            "nobody else, and a restart must not go unseen; leave it out and the student starts a server itself, or "
            "set run.weights = 'lora'"
        )
    if settings.loss.teacher == "trust_region":
        raise ValueError(
            "loss.teacher: 'trust_region' mixes two passes under one output layer, and with run.weights = 'full' there "
            "are two; set loss.teacher = 'ema', or run.weights = 'lora'"
        )
