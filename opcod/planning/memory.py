"""How much memory each service needs at most, by what it is for, from the sizes in a model's config.json.

Nothing is loaded. docs/paper-runs.md has measurements.
"""

from dataclasses import dataclass

from opcod.planning.shapes import DTYPE_BYTES, ModelShape
from opcod.planning.work import Lengths
from shared.config.baselines import POLICY_GRADIENTS
from shared.config.settings import RunSettings

MiB = 1 << 20
# Python with torch, transformers and the service, measured on a CPU at 420 MiB before a model is loaded.
MODEL_RUNTIME_BYTES = 450 * MiB
# On a CPU: freed memory that the C allocator keeps, as a share of what comes and goes with every batch or version.
# Measured on the laptop preset at 0.8 and 0.3.
KEPT_BY_ALLOCATOR = {"student": 0.9, "trainer": 0.4}
# Three processes of vLLM for CPUs, measured with the embedded model, less its weights and cache.
VLLM_RUNTIME_BYTES = 1700 * MiB
# VLLM_CPU_KVCACHE_SPACE as the student sets it.
CPU_CACHE_BYTES = 1 << 30
# A broker, inspector or Redis of a run that has just begun, measured; the broker grows with what is in flight.
SERVICE_BYTES = 60 * MiB
# The launcher after it has checked the models; measured.
LAUNCHER_BYTES = 400 * MiB
# Live, tutor, and the next live one while it is loaded; a student's own base weights are there besides.
HELD_VERSIONS = 3
# A vocabulary entry of a sequence while a token is drawn: logits in fp32, probabilities, and what top-p sorts.
SAMPLING_BYTES = 16
PREFILL_TOKENS = 2048
# Logits and their derivatives in a trainer, a chunk at a time (`services/trainer/step/divergence.py`).
CHUNK_BYTES = 10 * 4 * (1 << 22)


@dataclass(frozen=True)
class MemoryPart:
    """shared: mapped from the model's files on a CPU, so that student and trainer of one model hold it once."""

    name: str
    bytes: int
    shared: bool = False


@dataclass(frozen=True)
class Need:
    """One process and its parts."""

    service: str
    parts: tuple[MemoryPart, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def student_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, *, gpu: bool) -> Need:
    section = settings.students[student]
    size = DTYPE_BYTES[section.dtype]
    full = settings.run.weights == "full"
    changed = (shape.parameters if full else shape.linear_parameters(settings.lora.first_layer)) * size
    # Every slot at its longest at once: that hardly happens, and a plan must not be too small.
    columns = longest_sequence(settings, lengths)
    prefill = max(PREFILL_TOKENS, columns) * size * (8 * shape.hidden + 3 * shape.intermediate)
    passing = (
        MemoryPart(f"{HELD_VERSIONS} versions{'' if full else ', merged'}", HELD_VERSIONS * changed),
        MemoryPart(
            f"keys and values: {section.slots} × {columns} tokens", shape.cache_bytes(section.slots * columns, size)
        ),
        MemoryPart("logits and prefill", section.slots * shape.vocabulary * SAMPLING_BYTES + prefill),
    )
    return Need(
        f"student-{student}",
        (
            MemoryPart("weights", shape.parameters * size, shared=True),
            *passing,
            *(() if gpu else (_kept_by_allocator("student", passing),)),
            MemoryPart("runtime", MODEL_RUNTIME_BYTES),
        ),
    )


def vllm_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, *, gpu: bool) -> Need:
    """What the server must find room for; on a GPU it takes `gpu_memory_utilization` of it, whatever it needs.

    Its cache is paged: what does not fit waits, so on a GPU the least is one sequence of the longest.
    """
    section = settings.students[student]
    size = DTYPE_BYTES[section.dtype]
    adapter = shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer) * size
    adapters = MemoryPart(f"{section.vllm.max_loras} adapters", section.vllm.max_loras * adapter)
    columns = longest_sequence(settings, lengths)
    # Measured on a CPU: three processes, each with torch, and a cache of 1 GiB that is set aside as a whole.
    cache = shape.cache_bytes(columns, size) if gpu else CPU_CACHE_BYTES
    return Need(
        f"student-{student}",
        (
            MemoryPart("weights", shape.parameters * size),
            *((adapters,) if settings.run.weights == "lora" else ()),
            MemoryPart(f"keys and values: {columns} tokens at least" if gpu else "keys and values", cache),
            MemoryPart("runtime", VLLM_RUNTIME_BYTES + MODEL_RUNTIME_BYTES),
        ),
    )


def trainer_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, *, gpu: bool) -> Need:
    """gpu: attention there keeps no weights for the backward pass."""
    size = DTYPE_BYTES[settings.students[student].dtype]
    first_layer = 0 if settings.run.weights == "full" else settings.lora.first_layer
    tokens = micro_batch_tokens(settings, lengths)
    row = lengths.longest + settings.rollout.max_tokens
    kept = shape.activation_bytes(tokens, first_layer, size, min(row, tokens), dense=not gpu)
    forward = tokens * size * (8 * shape.hidden + 3 * shape.intermediate)
    passing = (
        MemoryPart(f"activations: {tokens} tokens", kept + forward),
        MemoryPart("logits, a chunk at a time", CHUNK_BYTES),
    )
    return Need(
        f"trainer-{student}",
        (
            *_trained_parts(settings, shape, size),
            *passing,
            *(() if gpu else (_kept_by_allocator("trainer", passing),)),
            MemoryPart("runtime", MODEL_RUNTIME_BYTES),
        ),
    )


def _trained_parts(settings: RunSettings, shape: ModelShape, size: int) -> tuple[MemoryPart, ...]:
    """Weights and all that training keeps of what it changes. Weights that it changes are not mapped from their file;
    below fp32 there are exact ones besides, and the teacher's are rounded to be computed with.
    """
    full = settings.run.weights == "full"
    teacher = settings.run.method not in POLICY_GRADIENTS or settings.grpo.anchor > 0
    # Below fp32 the trained weights exist twice: exact ones that small steps add up in, and rounded ones to compute
    # with.
    rounded = size if full and size < 4 else 0
    trained = shape.parameters if full else shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer)
    fp32 = 4 if full and not rounded else 8
    return (
        MemoryPart("weights", shape.parameters * size, shared=not full),
        MemoryPart(f"{'weights' if full else 'adapter'} and gradient, fp32", fp32 * trained),
        MemoryPart("optimizer, fp32", 8 * trained),
        *(
            (MemoryPart(f"EMA teacher, fp32{' and rounded' if rounded else ''}", (4 + rounded) * trained),)
            if teacher
            else ()
        ),
        *((MemoryPart("gradient of the output layer, fp32", 4 * shape.vocabulary * shape.hidden),) if full else ()),
    )


def other_needs() -> list[Need]:
    services = [Need(name, (MemoryPart("runtime", SERVICE_BYTES),)) for name in ("broker", "inspector", "redis")]
    return [*services, Need("launcher", (MemoryPart("runtime", LAUNCHER_BYTES),))]


def longest_sequence(settings: RunSettings, lengths: Lengths) -> int:
    """Tokens of the longest prompt with its answer that a student may have in hand."""
    rollout, feedback = settings.rollout.max_tokens, settings.feedback.max_tokens
    answers = max(rollout, settings.evaluation.max_tokens)
    if settings.run.method != "opcod" or settings.gate.mode == "never":
        return lengths.longest + answers
    told = lengths.longest + lengths.feedback_extra + rollout + feedback
    shown = lengths.longest + lengths.teacher_extra + rollout + feedback + settings.evaluation.max_tokens
    return max(lengths.longest + answers, told, shown if settings.feedback.revise_share else 0)


def micro_batch_tokens(settings: RunSettings, lengths: Lengths) -> int:
    """Tokens of the largest forward pass of the trainer with a gradient: the limit, or one row that is longer, and
    never more than a mini-batch has.
    """
    row = lengths.longest + settings.rollout.max_tokens
    # Rounded up: groups are not split, so one mini-batch may have one more.
    groups = -(-settings.problems.per_step // settings.optimizer.mini_batches)
    return min(max(settings.optimizer.pass_tokens, row), groups * settings.rollout.samples * row)


def total_bytes(needs: list[Need], models: dict[str, str]) -> int:
    """All processes on one machine without a GPU. models: by service, what names the weights it maps."""
    counted: dict[str, int] = {}
    private = 0
    for need in needs:
        for part in need.parts:
            if part.shared:
                # By the name of the weights: student and trainer of one model map the same pages.
                counted[models[need.service]] = part.bytes
            else:
                private += part.bytes
    return private + sum(counted.values())


def _kept_by_allocator(service: str, passing: tuple[MemoryPart, ...]) -> MemoryPart:
    return MemoryPart(
        "freed, but kept by the allocator", round(KEPT_BY_ALLOCATOR[service] * sum(each.bytes for each in passing))
    )
