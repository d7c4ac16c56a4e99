"""How much of the host's memory a run needs at most, by arithmetic. Of what computes on GPUs: what passes through it,
and what is kept there for want of room on a card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from opcod.local.names import ServiceName, student_services
from opcod.planning.cards import GIB
from opcod.planning.memory import (
    MODEL_RUNTIME_BYTES,
    MOMENTS,
    MemoryPart,
    MiB,
    Need,
    mapped_weights,
    other_needs,
    student_need,
    total_bytes,
    trainer_need,
    vllm_need,
)
from opcod.planning.shapes import DTYPE_BYTES, ModelShape
from opcod.planning.work import Lengths
from shared.config.settings import RunSettings

# Python with torch and CUDA's libraries; a vLLM server with its three processes.
CUDA_HOST_BYTES = 2048 * MiB
ENGINE_HOST_BYTES = 3 * CUDA_HOST_BYTES


def host_needs(settings: RunSettings, shapes: Mapping[str, ModelShape]) -> list[Need]:
    """Of the host's memory, of what computes on GPUs: what weights and state pass through on their way."""
    found = []
    for student, shape in shapes.items():
        section = settings.students[student]
        weights = shape.parameters * DTYPE_BYTES[section.dtype]
        if section.engine == "vllm":
            # Its process looks at every weight, one after the other; the largest is the embedding.
            tensor = 2 * shape.vocabulary * shape.hidden * DTYPE_BYTES[section.dtype]
            runtime = ENGINE_HOST_BYTES + (section.vllm.gpus - 1) * CUDA_HOST_BYTES
            for replica in range(section.started):
                found.append(_on_host(str(ServiceName("student", student, replica)), MODEL_RUNTIME_BYTES, tensor))
                found.append(_on_host(str(ServiceName("engine", student, replica)), runtime, weights))
        else:
            services = student_services(settings, [student])
            found += [_on_host(service, CUDA_HOST_BYTES, weights) for service in services]
        found.append(
            _on_host(
                f"trainer-{student}",
                CUDA_HOST_BYTES,
                weights,
                _state_bytes(settings, shape),
                _hosted_bytes(settings, shape),
            )
        )
        if section.specialize:
            # Loaded to be trained, and once more to be merged.
            found.append(_on_host(f"specialist-{student}", CUDA_HOST_BYTES, 2 * weights))
    return found


def process_needs(
    settings: RunSettings, shapes: Mapping[str, ModelShape], lengths: Lengths, *, gpu: bool
) -> list[Need]:
    """Of students and trainers, by student; gpu: of a GPU's memory, else of this machine's."""
    students = [
        replace(
            (vllm_need if settings.students[name].engine == "vllm" else student_need)(
                name, settings, shape, lengths, gpu=gpu
            ),
            service=service,
        )
        for name, shape in shapes.items()
        for service in student_services(settings, [name])
    ]
    return students + [trainer_need(name, settings, shape, lengths, gpu=gpu) for name, shape in shapes.items()]


def run_bytes(settings: RunSettings, shapes: Mapping[str, ModelShape], lengths: Lengths, *, gpu: bool) -> int:
    """Of the host's memory, of all processes together; 0 where no model's shape is known."""
    if not shapes:
        return 0
    if gpu:
        return _bytes_beside_gpus([*host_needs(settings, shapes), *other_needs()])
    needs = process_needs(settings, shapes, lengths, gpu=False)
    return total_bytes([*needs, *other_needs()], mapped_weights(settings))


def memory_note(settings: RunSettings, wanted: int, there: int, *, gpu: bool) -> str | None:
    """What helps where a run may have `there` bytes on this machine and wants more; 0: not known."""
    if not 0 < there < wanted or settings.resources.nodes > 1:
        return None
    lower = "rollout.max_tokens, evaluation.max_tokens, feedback.max_tokens or students.<x>.slots"
    helps = "take a machine with more" if gpu else f"lower {lower}, or take a machine with more"
    return (
        f"a run may have {there / GIB:.1f} GiB of this machine's memory and wants about {wanted / GIB:.1f}, it may be "
        f"killed for want of it: {helps}"
    )


def memory_lines(settings: RunSettings, needs: list[Need], on_host: list[Need], there: int) -> Iterator[str]:
    """What all processes take together, and what helps where there is less (`memory_note`).

    needs: without GPUs; on_host: with GPUs, else none.
    """
    if on_host:
        total = _bytes_beside_gpus(on_host)
        yield f"All processes of the run in the host's memory: about {total / GIB:.1f} GiB."
    else:
        total = total_bytes(needs, mapped_weights(settings))
        yield f"All processes on this machine's CPU, weights of one model counted once: about {total / GIB:.1f} GiB."
    if (note := memory_note(settings, total, there, gpu=bool(on_host))) is not None:
        yield f"Note: {note}."


def _bytes_beside_gpus(on_host: Sequence[Need]) -> int:
    # Specialists have made room by then.
    return sum(need.bytes for need in on_host if not need.service.startswith("specialist"))


def _on_host(service: str, runtime: int, weights: int, state: int = 0, hosted: int = 0) -> Need:
    parts = (
        MemoryPart("runtime", runtime),
        MemoryPart("weights, while they are loaded", weights),
        MemoryPart("a checkpoint and a version, while they are written", state),
        MemoryPart(MOMENTS, hosted),
    )
    return Need(service, tuple(part for part in parts if part.bytes))


def _state_bytes(settings: RunSettings, shape: ModelShape) -> int:
    """Trained weights, teacher and moments in fp32, and a version's files."""
    teacher = 4 if settings.keeps_teacher else 0
    if settings.run.weights == "full":
        return (14 + teacher) * shape.parameters
    return (16 + teacher) * shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer)


def _hosted_bytes(settings: RunSettings, shape: ModelShape) -> int:
    """Moments that are offloaded, of all ranks: of an adapter each has all of them."""
    if settings.optimizer.offload != "moments":
        return 0
    if settings.run.weights == "full":
        return 8 * shape.parameters
    adapter = shape.adapter_parameters(settings.lora.rank, settings.lora.first_layer)
    return 8 * adapter * settings.trainer.ranks
