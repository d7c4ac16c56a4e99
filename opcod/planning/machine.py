"""What the settings that are left to the plan come to on this machine: looked up before a run begins, and kept in its
`planned.toml` for the services.

What always holds: where there is neither a GPU nor a server to describe nothing is looked up, and no file is written. A
run that goes on makes passes of as many tokens as before while they fit: a step that is made again rounds alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tomli_w

from opcod.local.cards import card_sizes
from opcod.local.gpus import Shares, share_out, share_out_all, shared
from opcod.local.names import ServiceName, student_services
from opcod.local.nodes import on_one_node
from opcod.planning.cards import GIB, Card, CardPlan, CardPlanner, ServerPlan
from opcod.planning.memory import served_tokens
from opcod.planning.shapes import ModelShape, shapes_in
from opcod.planning.work import Count, Lengths, prompt_lengths
from shared.config.loading import PLANNED_FILE, settings_of
from shared.config.settings import Paths, RunSettings
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.gpus import gpus_here
from shared.problems.loading import load_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOCKET_URL = "unix:"
"""Of a server that somebody starts as `opcod prepare` writes down."""

Purpose = Literal["run", "up", "prepare"]
"""What is planned for: a run; serving it, without trainers; or services that are started one by one, on cards that are
not seen from here. For those nothing is planned but the length of sequences."""


def plan_machine(
    settings: RunSettings, models: Mapping[str, Path], purpose: Purpose = "run", begun: int | None = None
) -> CardPlan:
    """The plan of this machine's GPUs; without cards where there are none. models: directories by student.

    Raises ConfigError where a card has no room for what runs on it, with all there is to say.
    """
    # One student may be fine-tuned without the other.
    shares = {
        service: gpus
        for service, gpus in started_shares(settings, purpose).items()
        if ServiceName.of(service).student in models
    }
    described = [name for name in models if purpose == "prepare" and _is_described(settings, name)]
    if not shares and not described:
        return CardPlan()
    shapes = shapes_in(models)
    lengths = prompt_lengths(load_problems(settings), settings, _count_of(settings, models))
    here = card_sizes()
    # Nodes are taken to be alike.
    sizes = None if here is None else here * (settings.resources.nodes if purpose == "run" else 1)
    plan = plan_shares(settings, shapes, lengths, shares, sizes, begun)
    if plan.refused:
        raise ConfigError("the memory of the GPUs does not suffice:\n  " + "\n  ".join(plan.refused))
    elsewhere = {
        name: ServerPlan(max_model_len=served_tokens(name, settings, shapes[name], lengths))
        for name in described
        if name in shapes and settings.students[name].vllm.max_model_len is None
    }
    return replace(plan, servers={**plan.servers, **elsewhere})


def started_shares(settings: RunSettings, purpose: Purpose) -> Shares:
    """GPUs of the services that are started for that: to serve a run, on one machine, its students alone.

    Raises ConfigError.
    """
    if purpose == "prepare":
        return {}
    if purpose == "up":
        return share_out(on_one_node(settings), gpus_here(), trainers=False)
    return share_out_all(settings, gpus_here())


def plan_shares(
    settings: RunSettings,
    shapes: Mapping[str, ModelShape],
    lengths: Lengths,
    shares: Shares,
    sizes: Sequence[int] | None,
    begun: int | None = None,
) -> CardPlan:
    """As `CardPlanner`; where the sizes of cards (None) or of a model are not known nothing is planned, and a server
    that shares a card is refused, as it would take most of it by itself."""
    unknown = [
        f"the sizes of {settings.students[name].model}"
        for name in sorted({ServiceName.of(service).student for service in shares} - shapes.keys())
    ]
    if sizes is None:
        unknown.append("the memory of these GPUs, which nvidia-smi does not tell")
    if sizes is not None and not unknown:
        return CardPlanner(settings, shapes, lengths, shares, sizes, begun=begun).plan()
    alone = shares.keys() - {service for pair in shared(shares) for service in pair[:2]}
    refused = [
        f"students.{name}.vllm.gpu_memory_utilization: {service} shares a GPU, and its part of the memory is not "
        f"planned without {' and '.join(dict.fromkeys(unknown))}: set it, or give the student a GPU of its own"
        for service in student_services(settings)
        if settings.students[name := ServiceName.of(service).student].engine == "vllm"
        and settings.students[name].vllm.gpu_memory_utilization == "auto"
        and service in shares.keys() - alone
    ]
    return CardPlan(refused=tuple(refused))


def write_plan(paths: Paths, settings: RunSettings, models: Mapping[str, Path], purpose: Purpose = "run") -> CardPlan:
    """Plan, and write `planned.toml` of the run, or take away what was planned for another machine.

    Raises ConfigError.
    """
    file = paths.run_dir / PLANNED_FILE
    before = settings_of(paths.run_dir).optimizer.micro_batch_tokens if file.exists() else "auto"
    begun = None if before == "auto" else before
    plan = plan_machine(settings, models, purpose, begun)
    if purpose != "run":
        plan = replace(plan, pass_tokens=begun)  # for the day on which it goes on
    if planned := plan.settings():
        atomic_write(file, tomli_w.dumps(planned).encode())
    else:
        file.unlink(missing_ok=True)
    return plan


def in_words(card: Card) -> str:
    """What is on a card, in a line."""
    each = ", ".join(f"{need.service} {need.bytes / GIB:.1f}" for need in card.needs) or "nothing"
    return f"GPU {card.number}, {card.bytes / GIB:.1f} GiB{', in turns' if card.turns else ''}: {each}"


def counting(tokenizer: "PreTrainedTokenizerBase") -> Count:
    """Tokens of a prompt as that tokenizer renders it."""
    return partial(_count, tokenizer)


def _count(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage]) -> int:
    from shared.modeling.chat import render

    return len(render(tokenizer, messages))


def _count_of(settings: RunSettings, models: Mapping[str, Path]) -> Count | None:
    """With the first student's tokenizer, for both."""
    from shared.modeling.loading import load_tokenizer

    for name, path in models.items():
        return counting(load_tokenizer(path, settings.students[name].chat_template))
    return None


def _is_described(settings: RunSettings, student: str) -> bool:
    """Whether its server is started elsewhere, as we write down."""
    section = settings.students[student]
    return section.engine == "vllm" and (section.vllm.url or "").startswith(SOCKET_URL)
