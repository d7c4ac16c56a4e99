"""How much memory each service needs at most, by what it is for, from the sizes of its model.

Nothing is loaded. docs/paper-runs.md has measurements.
"""

from dataclasses import dataclass, replace

from opcod.local.names import student_services
from opcod.planning.contexts import longest_sequence
from opcod.planning.shapes import DTYPE_BYTES, ModelShape
from opcod.planning.work import Lengths
from shared.config.settings import RunSettings
from shared.vllm import SPARE_SEQUENCES, largest_rank

MiB = 1 << 20
# Python with torch, transformers and the service, measured on a CPU at 420 MiB before a model is loaded.
MODEL_RUNTIME_BYTES = 450 * MiB
# On a CPU: freed memory that the C allocator keeps, as a share of what comes and goes with every batch or version. The
# laptop preset was measured to hold no more than the other parts, which are upper bounds: this is a margin.
KEPT_BY_ALLOCATOR = {"student": 0.3, "trainer": 0.2}
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
# Of prompts in one call of the transformers engine (`services/student/engines/decoding.py`, not imported here).
PREFILL_TOKENS = 2048
ACTIVATIONS = "activations"
MOMENTS = "optimizer, fp32"
RUNTIME = "runtime"
HOSTED = f"{MOMENTS}, of a tensor at a time"
# Logits and their derivatives in a trainer, a chunk at a time (`services/trainer/step/divergence.py`).
CHUNK_BYTES = 10 * 4 * (1 << 22)

# What follows is of GPUs and by arithmetic; none has been measured.
# CUDA's context of a process, with the workspaces of its libraries.
CUDA_BYTES = 768 * MiB
# CUDA graphs of a vLLM server for all sizes of a batch, with and without adapters.
GRAPH_BYTES = 1024 * MiB
# Tokens in one step of a vLLM server on a large GPU (max_num_batched_tokens); on a small one it takes fewer.
SERVER_TOKENS = 8192
# Rows of logits at once in a trainer. Of each entry: both students' logits in bf16; two log-softmaxes, the gradient and
# its parts in fp32; and a divergence over the whole vocabulary has parts of its own.
GPU_CHUNK_ROWS = 512
CHUNK_ENTRY_BYTES = {"some": 24, "all": 40}
# A text that is rendered again may have a few tokens more, and with the other student's tokenizer other ones.
CONTEXT_MARGIN = 1.1
# Rounded up, so that a longest text of a few tokens more does not plan another server.
CONTEXT_STEP = 256


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

    @property
    def resting(self) -> int:
        """Of `bytes`, what a process keeps of a GPU that others have their turn on."""
        return sum(part.bytes for part in self.parts if part.name.startswith(RUNTIME))


def student_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, *, gpu: bool) -> Need:
    section = settings.students[student]
    size = DTYPE_BYTES[section.dtype]
    full = settings.run.weights == "full"
    changed = (shape.parameters if full else shape.linear_parameters(settings.lora.first_layer)) * size
    packed = not gpu and section.dtype != "float32"
    if packed and full and shape.tied:
        changed += shape.vocabulary * shape.hidden * size  # an embedding, and a packed output layer besides
    # Every slot at its longest at once: that hardly happens, and a plan must not be too small.
    columns = longest_sequence(settings, lengths)
    prefill = shape.passing_bytes(max(PREFILL_TOKENS, columns), size, columns, gpu=gpu)
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
            # Laid out for the processor's products, beside the mapped ones that versions are merged from.
            *((MemoryPart("weights, packed", shape.parameters * size),) if packed else ()),
            *passing,
            *(() if gpu else (_kept_by_allocator("student", passing),)),
            MemoryPart(RUNTIME, CUDA_BYTES if gpu else MODEL_RUNTIME_BYTES),
        ),
    )


def vllm_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, *, gpu: bool) -> Need:
    """What the server must find room for; on GPUs, in each of them, and with the smallest cache that it starts with."""
    if gpu:
        return server_need(student, settings, shape, lengths)
    section = settings.students[student]
    size = DTYPE_BYTES[section.dtype]
    adapter = shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer) * size
    adapters = MemoryPart(f"{section.vllm.max_loras} adapters", section.vllm.max_loras * adapter)
    return Need(
        f"student-{student}",
        (
            MemoryPart("weights", shape.parameters * size),
            *((adapters,) if settings.run.weights == "lora" else ()),
            # Measured: three processes, each with torch, and a cache of 1 GiB that is set aside as a whole.
            MemoryPart("keys and values", CPU_CACHE_BYTES),
            MemoryPart(RUNTIME, VLLM_RUNTIME_BYTES + MODEL_RUNTIME_BYTES),
        ),
    )


def server_need(
    student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths, cache_bytes: int | None = None
) -> Need:
    """Of each GPU of a student's vLLM server. cache_bytes: of keys and values; None is one sequence of the longest, for
    the cache is paged, and what does not fit waits.
    """
    section = settings.students[student]
    size, split = DTYPE_BYTES[section.dtype], section.vllm.tensor_parallel_size
    context = served_tokens(student, settings, shape, lengths)
    one = sequence_bytes(student, settings, shape, lengths)
    cache = one if cache_bytes is None else cache_bytes
    # Its slots are made for every linear layer and its own sizes of rank, whatever an adapter has.
    adapter = shape.adapter_parameters(largest_rank(settings.lora.rank), 0) * size
    adapters = MemoryPart(f"{section.vllm.max_loras} adapters", section.vllm.max_loras * adapter)
    step = SERVER_TOKENS * size * (8 * shape.hidden + 3 * shape.intermediate // split)
    drawn = (section.slots + SPARE_SEQUENCES) * shape.vocabulary * SAMPLING_BYTES
    return Need(
        f"student-{student}",
        (
            MemoryPart("weights", -(-shape.parameters * size // split)),
            *((adapters,) if settings.run.weights == "lora" else ()),
            MemoryPart("logits and prefill", step + drawn),
            MemoryPart(f"keys and values: {cache // one} × {context} tokens", cache),
            MemoryPart(f"{RUNTIME} and graphs", CUDA_BYTES + GRAPH_BYTES),
        ),
    )


def served_tokens(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths) -> int:
    """The longest sequence that a vLLM server has to take: `max_model_len`, or what the run needs."""
    if (chosen := settings.students[student].vllm.max_model_len) is not None:
        return chosen
    longest = longest_sequence(settings, lengths)
    if settings.learns_from_itself(student):
        longest = max(longest, lengths.longest + settings.specialize.sampling.max_tokens)
    needed = -(-round(longest * CONTEXT_MARGIN) // CONTEXT_STEP) * CONTEXT_STEP
    return min(needed, shape.context or needed)


def sequence_bytes(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths) -> int:
    """Keys and values of one sequence of the longest, in each GPU of a vLLM server."""
    section = settings.students[student]
    # No GPU has less than one of the heads.
    split = min(section.vllm.tensor_parallel_size, shape.key_heads)
    whole = shape.cache_bytes(served_tokens(student, settings, shape, lengths), DTYPE_BYTES[section.dtype])
    return -(-whole // split)


def trainer_need(
    student: str,
    settings: RunSettings,
    shape: ModelShape,
    lengths: Lengths,
    *,
    gpu: bool,
    pass_tokens: int | None = None,
) -> Need:
    """Of each GPU, or of all ranks where there is none.

    gpu: attention there keeps its weights of those models alone that have a plain one. pass_tokens: in place of
    `optimizer.micro_batch_tokens`.
    """
    size = DTYPE_BYTES[settings.students[student].dtype]
    first_layer = 0 if settings.run.weights == "full" else settings.lora.first_layer
    tokens = micro_batch_tokens(settings, lengths, pass_tokens)
    row = lengths.longest + settings.rollout.max_tokens
    # What a vLLM server computes with as it is, its trainer has in the same type.
    copied = settings.run.weights == "full" or settings.students[student].engine != "vllm"
    passing = (
        _activations(settings, shape, first_layer, (tokens, min(row, tokens), size), gpu=gpu, copied=copied),
        MemoryPart("logits, a chunk at a time", _chunk_bytes(settings, shape) if gpu else CHUNK_BYTES),
    )
    sharded = settings.run.weights == "full" and settings.trainer.ranks > 1
    parts = (
        *(
            _sharded_parts(settings, shape, size, gpu=gpu)
            if sharded
            else _trained_parts(student, settings, shape, size, gpu=gpu)
        ),
        *passing,
        *(() if gpu else (_kept_by_allocator("trainer", passing),)),
        MemoryPart(RUNTIME, CUDA_BYTES if gpu else MODEL_RUNTIME_BYTES),
    )
    copies = 1 if gpu else settings.trainer.ranks
    # What is mapped is there once, whoever maps it.
    return Need(
        f"trainer-{student}", tuple(part if part.shared else replace(part, bytes=copies * part.bytes) for part in parts)
    )


def specialist_need(student: str, settings: RunSettings, shape: ModelShape, lengths: Lengths) -> Need:
    """Of a GPU, before the run, while a student is fine-tuned on its domain: an adapter, whatever the run trains."""
    size, first_layer = DTYPE_BYTES[settings.students[student].dtype], settings.lora.first_layer
    own = settings.learns_from_itself(student)
    answer = settings.specialize.sampling.max_tokens if own else settings.rollout.max_tokens
    tokens = max(settings.optimizer.pass_tokens, lengths.longest + answer)
    return Need(
        f"specialist-{student}",
        (
            MemoryPart("weights", shape.parameters * size),
            # Itself, its gradient and two moments.
            MemoryPart("adapter and optimizer, fp32", 16 * shape.adapter_parameters(settings.lora.rank, first_layer)),
            _activations(settings, shape, first_layer, (tokens, lengths.longest + answer, size), gpu=True),
            MemoryPart("logits, a chunk at a time", _chunk_bytes(settings, shape)),
            MemoryPart(RUNTIME, CUDA_BYTES),
        ),
    )


def _activations(
    settings: RunSettings, shape: ModelShape, first: int, sizes: tuple[int, int, int], *, gpu: bool, copied: bool = True
) -> MemoryPart:
    """What a forward pass keeps for the backward pass, and what it makes and drops again. first: block with an adapter;
    sizes: tokens of the pass and of a row, and bytes of a number."""
    tokens, row, size = sizes
    again = settings.trainer.recomputes("cuda" if gpu else "cpu")
    kept = (shape.recomputed_bytes if again else shape.activation_bytes)(
        tokens, first, size, row, dense=shape.plain or not gpu, copied=copied
    )
    return MemoryPart(f"{ACTIVATIONS}: {tokens} tokens", kept + shape.passing_bytes(tokens, size, row, gpu=gpu))


def _chunk_bytes(settings: RunSettings, shape: ModelShape) -> int:
    """Of what a trainer on a GPU makes over the vocabulary, a chunk of rows at a time."""
    entry = CHUNK_ENTRY_BYTES["all" if settings.loss.top_k == "all" else "some"]
    return entry * GPU_CHUNK_ROWS * shape.vocabulary


def _trained_parts(
    student: str, settings: RunSettings, shape: ModelShape, size: int, *, gpu: bool
) -> tuple[MemoryPart, ...]:
    """Weights and all that training keeps of what it changes. Weights that it changes are not mapped from their file;
    below fp32 there are exact ones besides, and the teacher's are rounded to be computed with.
    """
    full = settings.run.weights == "full"
    # Below fp32 the trained weights exist twice: exact ones that small steps add up in, and rounded ones to compute
    # with. An adapter is computed with in fp32 but where a vLLM server does otherwise.
    rounded = size if size < 4 and (full or settings.students[student].engine == "vllm") else 0
    trained = shape.parameters if full else shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer)
    # Of all weights the model's own part has the rounded ones, or fp32 ones that need no others besides.
    kept = (8 if rounded else 4) if full else 8 + rounded
    return (
        MemoryPart("weights", shape.parameters * size, shared=not full),
        MemoryPart(
            f"{'weights' if full else 'adapter'} and gradient, fp32{'' if full or not rounded else ', and rounded'}",
            kept * trained,
        ),
        MemoryPart(HOSTED, 8 * _largest_tensor(settings, shape))
        if gpu and settings.optimizer.offload == "moments"
        else MemoryPart(MOMENTS, 8 * trained),
        *(
            (MemoryPart(f"EMA teacher, fp32{' and rounded' if rounded else ''}", (4 + rounded) * trained),)
            if settings.keeps_teacher
            else ()
        ),
        *((MemoryPart("gradient of the output layer, fp32", 4 * shape.vocabulary * shape.hidden),) if full else ()),
    )


def _largest_tensor(settings: RunSettings, shape: ModelShape) -> int:
    """Parameters of the largest tensor that is trained."""
    if settings.run.weights == "full":
        return shape.largest_tensor
    return settings.lora.rank * max(shape.hidden, shape.intermediate, shape.heads * shape.head_width)


def _sharded_parts(settings: RunSettings, shape: ModelShape, size: int, *, gpu: bool) -> tuple[MemoryPart, ...]:
    """Of one rank of those that share out all weights: its part of what is kept, and what is whole at a time."""
    ranks, outside = settings.trainer.ranks, shape.outside_parameters
    block = -(-(shape.parameters - outside) // shape.layers)

    def part(per_parameter: int) -> int:
        return -(-per_parameter * shape.parameters // ranks)

    largest = -(-_largest_tensor(settings, shape) // ranks)
    teachers = (MemoryPart(f"EMA teacher, fp32, of {ranks} parts one", part(4)),) if settings.keeps_teacher else ()
    return (
        MemoryPart(f"weights and gradient, fp32, of {ranks} parts one", part(8)),
        MemoryPart(HOSTED, 8 * largest)
        if gpu and settings.optimizer.offload == "moments"
        else MemoryPart(f"{MOMENTS}, of {ranks} parts one", part(8)),
        *teachers,
        # Outside of blocks the student's and the teacher's at once; of blocks the one at work and the next one.
        MemoryPart("weights that are whole", size * ((1 + len(teachers)) * outside + 2 * block)),
        # In the model's type as it is made, in fp32 as it is summed up.
        MemoryPart("gradient that is whole", (size + 4) * (outside + block)),
        MemoryPart("gradient of the output layer, fp32", 4 * shape.vocabulary * shape.hidden),
    )


def other_needs() -> list[Need]:
    services = [Need(name, (MemoryPart(RUNTIME, SERVICE_BYTES),)) for name in ("broker", "inspector", "redis")]
    return [*services, Need("launcher", (MemoryPart(RUNTIME, LAUNCHER_BYTES),))]


def micro_batch_tokens(settings: RunSettings, lengths: Lengths, limit: int | None = None) -> int:
    """Tokens of the largest forward pass of the trainer with a gradient: the limit, or one row that is longer, and
    never more than a mini-batch has. limit: in place of `optimizer.micro_batch_tokens`.
    """
    row = lengths.longest + settings.rollout.max_tokens
    # Rounded up: groups are not split, so one mini-batch may have one more.
    groups = -(-settings.problems.per_step // settings.optimizer.mini_batches)
    return min(max(limit or settings.optimizer.pass_tokens, row), groups * settings.rollout.samples * row)


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


def mapped_weights(settings: RunSettings) -> dict[str, str]:
    """What names the weights of each service: student and trainer map the same files; specialists have their own."""
    names = {
        student: f"specialist-{student}" if section.specialize else section.model
        for student, section in settings.students.items()
    }
    return {
        service: name
        for student, name in names.items()
        for service in (*student_services(settings, [student]), f"trainer-{student}")
    }


def _kept_by_allocator(service: str, passing: tuple[MemoryPart, ...]) -> MemoryPart:
    return MemoryPart(
        "freed, but kept by the allocator", round(KEPT_BY_ALLOCATOR[service] * sum(each.bytes for each in passing))
    )
