"""Settings that are each in order but contradict one another. Every refusal names the setting to change."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from shared.config.baselines import POLICY_GRADIENTS

# `RunSettings` checks itself with this module, so this one cannot import it.
if TYPE_CHECKING:
    from shared.config.settings import RunSettings


def even_share(per_step: int, domains: Collection[str]) -> int:
    """Problems of a step from each domain. Raises ValueError if they cannot be as many."""
    if per_step % len(domains):
        raise ValueError(
            f"problems.per_step: expected a multiple of {len(domains)}, as there are so many domains and "
            f"problems.balance_domains is on, got {per_step}"
        )
    return per_step // len(domains)


def refuse_contradictions(settings: "RunSettings") -> None:
    """Raises ValueError naming the setting to change."""
    run, gate, students = settings.run, settings.gate, settings.students
    for name, student in sorted(students.items()):
        if student.examples is not None and not student.specialize:
            raise ValueError(f"students.{name}.examples: without students.{name}.specialize = true they are not used")
        _refuse_unknown_kinds(settings, name)
    sampling = settings.specialize.sampling
    if sampling.keep > sampling.samples:
        raise ValueError("specialize.sampling.keep: at most specialize.sampling.samples, of which they are kept")
    if settings.optimizer.mini_batches > settings.problems.per_step:
        raise ValueError("optimizer.mini_batches: at most problems.per_step, since a group is never split")
    if settings.problems.balance_domains:
        even_share(settings.problems.per_step, settings.domains)
    if run.method != "opcod" and gate.mode in ("always", "domain_selective"):
        raise ValueError(
            f"gate.mode: {gate.mode!r} lets students tutor, run.method = {run.method!r} has no tutors; set "
            "gate.mode = 'cognizance', or run.method = 'opcod'"
        )
    untutored = settings.gate_mode == "never" and run.method not in POLICY_GRADIENTS
    if untutored and settings.rollout.samples == 1 and settings.loss.demo_self_exclude:
        raise ValueError(
            "rollout.samples: expected at least 2, got 1: nobody tutors, and a rollout is never its own demonstration, "
            "so nothing would be trained on; set rollout.samples = 2 or more, or loss.demo_self_exclude = false"
        )
    if run.method == "hacpo" and run.stream:
        raise ValueError("run.stream: HACPO weighs a group by the rewards of the whole step; set run.stream = false")
    if run.method == "hacpo" and run.schedule == "sequential":
        raise ValueError(
            "run.schedule: with run.method = 'hacpo' every step of a student waits for its peer's rollouts of the same "
            "problems, and in sequence the peer would not begin before that student is done; set run.schedule = "
            "'parallel'"
        )
    if run.method == "grpo" and settings.grpo.anchor and settings.loss.teacher != "ema":
        raise ValueError(
            "grpo.anchor: the student is held to its own moving average, and with loss.teacher = "
            f"{settings.loss.teacher!r} none is kept; set loss.teacher = 'ema', or grpo.anchor = 0"
        )
    if gate.tutor_source == "latest" and run.schedule == "parallel":
        raise ValueError(
            "gate.tutor_source: 'latest' is the student that the phase before has trained, and in parallel there is "
            "none; set run.schedule = 'sequential'"
        )
    _refuse_full_weights(settings)
    _refuse_turns(settings)
    if gate.hysteresis > gate.tau:
        raise ValueError("gate.hysteresis: at most gate.tau, or who may not tutor never could again")
    if settings.feedback.prompt == "naive" and settings.problems.format != "mcq":
        raise ValueError(
            f"feedback.prompt: the format {settings.problems.format!r} has one prompt, which asks for a concept; "
            "'naive' needs problems.format = 'mcq'"
        )


def require_students(settings: "RunSettings") -> None:
    """Raises ValueError where there are fewer students than the method needs, or more than it can have."""
    method, names = settings.run.method, settings.names
    if not names:
        raise ValueError("students: expected sections [students.<name>], got none")
    if len(names) == 1 and method not in ("sdpo", "grpo"):
        raise ValueError(
            f"students: expected at least two, got {names[0]} alone, whom nobody could tutor; add another student, or "
            "set run.method = 'sdpo' or 'grpo'"
        )
    if method == "hacpo" and len(names) > 2:
        raise ValueError(
            f"students: run.method = 'hacpo' shares rollouts between two, got {', '.join(names)}; take two of them, or "
            "another method"
        )


def _refuse_unknown_kinds(settings: "RunSettings", name: str) -> None:
    student, kinds = settings.students[name], settings.problems.kinds
    others = set(settings.domains) - {student.domain}
    # Given as one number it names no domain.
    named = student.unknown_kinds if isinstance(student.unknown_kinds, dict) else {}
    if strange := sorted(named.keys() - others):
        raise ValueError(f"students.{name}.unknown_kinds: expected domains of other students, got {strange[0]}")
    unknown = max((student.unknown_in(domain) for domain in others), default=0)
    if kinds is not None and unknown > kinds // 2:
        raise ValueError(
            f"students.{name}.unknown_kinds: of problems.kinds = {kinds} in a domain {kinds // 2} have a constant that "
            f"could be unknown, got {unknown}; set it to {kinds // 2}, or problems.kinds to {2 * unknown}"
        )


def _refuse_turns(settings: "RunSettings") -> None:
    """What cannot leave a GPU to others, and come back."""
    if not settings.resources.turns:
        return
    for name, student in sorted(settings.students.items()):
        if student.engine == "transformers":
            raise ValueError(
                f"resources.turns: the engine of student {name}, 'transformers', cannot sleep while another process "
                f"works on its GPU; set students.{name}.engine = 'vllm', or resources.turns = false"
            )
        if student.finds_server:
            raise ValueError(
                f"resources.turns: the server of student {name} at {student.vllm.url} is somebody else's, who may not "
                f"want it to sleep; leave students.{name}.vllm.url out, so that the student starts one of its own"
            )
        if student.engine == "vllm" and student.vllm.gpus > 1:
            raise ValueError(
                f"resources.turns: expected a server on one GPU, that of student {name} is split over "
                f"{student.vllm.gpus}; set its parallel sizes to 1, or resources.turns = false"
            )
    others = {
        "run.weights = 'lora'": settings.run.weights != "lora",
        "run.stream = false": settings.run.stream,
        "trainer.ranks = 1": settings.trainer.ranks > 1,
        **{f"students.{name}.replicas = 1": settings.students[name].replicas > 1 for name in settings.names},
        "resources.nodes = 1": settings.resources.nodes > 1,
    }
    if wrong := [setting for setting, other in others.items() if other]:
        raise ValueError(f"resources.turns: takes {' and '.join(wrong)}; set that, or resources.turns = false")


def _refuse_full_weights(settings: "RunSettings") -> None:
    """What only adapters can do."""
    if settings.run.weights != "full":
        return
    on_vllm = [name for name, student in sorted(settings.students.items()) if student.engine == "vllm"]
    alone = [name for name in on_vllm if settings.keeps_apart(name) and settings.students[name].replicas < 2]
    if alone:
        raise ValueError(
            f"run.weights: a vLLM server of student {alone[0]} holds one set of full weights at a time, and in "
            "parallel two are served, the student in training and the tutor; set "
            f"students.{alone[0]}.replicas = 2, a server each (docs/full-weights.md), run.schedule = 'sequential', "
            f"or students.{alone[0]}.engine = 'transformers'"
        )
    found = {name: url for name in on_vllm if (url := settings.students[name].vllm.url) is not None}
    open_to_others = [name for name, url in found.items() if not url.startswith("unix:")]
    if open_to_others:
        raise ValueError(
            f"students.{open_to_others[0]}.vllm.url: full weights are exchanged by routes of the server's that ask for "
            "no key, so nobody but its student may reach it; name a socket (unix:/path) in a directory of theirs "
            "alone, or set run.weights = 'lora'"
        )
    # By URL, the first student that has it.
    first: dict[str, str] = {}
    for name, url in found.items():
        if url in first:
            raise ValueError(
                f"students.{name}.vllm.url: the server at {url} has room for one set of full weights, and student "
                f"{first[url]} has it; name another server, or set run.weights = 'lora'"
            )
        first[url] = name
    if settings.loss.teacher == "trust_region":
        raise ValueError(
            "loss.teacher: 'trust_region' mixes two passes under one output layer, and with run.weights = 'full' there "
            "are two; set loss.teacher = 'ema', or run.weights = 'lora'"
        )
