"""Which GPUs each process of a run on this machine sees. Pure.

What always holds: a student's engine comes before a trainer, and has its GPUs to itself while there are enough;
processes that share one are named, so that nobody finds out by running out of memory.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from opcod.local.names import ServiceName, student_services
from opcod.local.nodes import placement
from shared.config.settings import RunSettings
from shared.errors import ConfigError
from shared.gpus import named

Shares = dict[str, tuple[int, ...]]
"""By service, indices into the GPUs that this machine shows us."""


def wanted(settings: RunSettings, node: int = 0, *, trainers: bool = True) -> dict[str, int]:
    """By service of that node, how many GPUs it uses there where there are any; students first. trainers: whether
    there are any, as in a run that is not only served.

    Raises ConfigError.
    """
    places = placement(settings)
    students = {}
    for service in student_services(settings):
        section = settings.students[ServiceName.of(service).student]
        elsewhere = section.engine == "scripted" or section.finds_server
        students[service] = 0 if elsewhere else section.vllm.gpus if section.engine == "vllm" else 1
    training = {
        service: settings.trainer.ranks // len(on) for service, on in places.items() if service.startswith("trainer")
    }
    found = {**students, **training} if trainers else students
    return {service: count for service, count in found.items() if node in places[service]}


def share_out(settings: RunSettings, available: int, node: int = 0, *, trainers: bool = True) -> Shares:
    """GPUs of each service of that node: those of `resources.gpus`; else students' one after the other, in a row, and
    from the first again when they are used up, and for each trainer those that the fewest have, of equals rather its
    own student's and no other's. trainers: as in `wanted`.

    Raises ConfigError where a service needs more than there are, or what is set cannot be.
    """
    needs = {service: count for service, count in wanted(settings, node, trainers=trainers).items() if count}
    if settings.resources.gpus is not None:
        places = placement(settings)
        here = {
            name: gpus
            for name, gpus in settings.resources.gpus.items()
            if node in places.get(name, (node,)) and (trainers or not name.startswith("trainer"))
        }
        shares = _as_set(here, needs, available)
        if settings.resources.turns and len({gpu for gpus in shares.values() for gpu in gpus}) > 1:
            raise ConfigError(
                "resources.turns: expected one GPU that all take turns on, resources.gpus names several; name one, or "
                "set resources.turns = false"
            )
        return shares
    if available == 0:
        return {}
    if settings.resources.turns:
        return dict.fromkeys(needs, (0,))
    shares = {}
    taken = 0
    for service, count in needs.items():
        if count > available:
            setting = "trainer.ranks" if service.startswith("trainer") else "its parallel sizes"
            raise ConfigError(f"{service} needs {count} GPUs, this machine has {available}; lower {setting}")
        if service.startswith("trainer"):
            shares[service] = _emptiest(service, shares, available)[:count]
            continue
        # From the next free GPU on, while there are enough of them in a row; else where there are fewest.
        first = taken if taken + count <= available else _emptiest(service, shares, available)[0]
        shares[service] = tuple((first + number) % available for number in range(count))
        # Who began again from the first has taken no new one.
        taken = max(taken, first + count)
    return shares


def share_out_all(settings: RunSettings, available: int) -> Shares:
    """As `share_out`, of the services of all nodes, where each has as many GPUs: those of node n count from n times
    that. Raises ConfigError."""
    found: Shares = {}
    for node in range(settings.resources.nodes):
        for service, gpus in share_out(settings, available, node).items():
            found[service] = (*found.get(service, ()), *(node * available + gpu for gpu in gpus))
    return found


def starts(settings: RunSettings, shares: Shares, services: Sequence[str]) -> list[list[str]]:
    """`services` in the turns in which they are started: each when those of the turn before are ready.

    A vLLM server measures the memory of its GPU as it starts, and takes what another process allocates or frees
    meanwhile for its own (vLLM issue 55827). So on a GPU that has one, servers come first, one after the other.
    """
    servers = set(
        student_services(settings, [name for name in settings.names if settings.students[name].engine == "vllm"])
    )
    # Sorted, and so in their order otherwise.
    first = sorted(services, key=lambda service: service not in servers)
    return _in_turns(first, lambda one, other: bool({one, other} & servers) and _share(shares, one, other))


def apart(shares: Shares, services: Sequence[str]) -> list[list[str]]:
    """`services` in turns, so that none shares a GPU with another of its turn."""
    return _in_turns(services, lambda one, other: _share(shares, one, other))


def _share(shares: Shares, one: str, other: str) -> bool:
    return not set(shares.get(one, ())).isdisjoint(shares.get(other, ()))


def _in_turns(names: Sequence[str], clash: Callable[[str, str], bool]) -> list[list[str]]:
    """Each in the turn after the last one of those before it in `names` that it clashes with."""
    turn: dict[str, int] = {}
    for name in names:
        turn[name] = 1 + max((at for other, at in turn.items() if clash(name, other)), default=-1)
    return [[name for name in names if turn[name] == number] for number in sorted(set(turn.values()))]


def shared(shares: Shares) -> list[tuple[str, str, int]]:
    """Pairs of services on one GPU, and which."""
    pairs = combinations(sorted(shares), 2)
    return [(one, other, gpu) for one, other in pairs for gpu in sorted(set(shares[one]) & set(shares[other]))]


def sharing(shares: Shares, *, turns: bool) -> list[str]:
    """Who shares a GPU with whom, in words. turns: one at a time."""
    if turns and shares:
        return [f"{', '.join(sorted(shares))} take turns on GPU {min(gpus[0] for gpus in shares.values())}"]
    return [f"{one} and {other} share GPU {gpu}, and so its memory" for one, other, gpu in shared(shares)]


def require_room(settings: RunSettings, shares: Shares) -> None:
    """Raises ConfigError where the vLLM servers on one GPU are set to take more than all of it at once."""
    if settings.resources.turns:
        return
    takes: dict[int, dict[str, float]] = {}
    for service in student_services(settings):
        section = settings.students[ServiceName.of(service).student]
        share = section.vllm.gpu_memory_utilization
        if section.engine == "vllm" and share != "auto":
            for gpu in shares.get(service, ()):
                takes.setdefault(gpu, {})[service] = share
    for gpu, shares_of in takes.items():
        if sum(shares_of.values()) > 1:
            listed = " and ".join(f"{share:g} of {service}" for service, share in shares_of.items())
            raise ConfigError(
                f"students.<x>.vllm.gpu_memory_utilization: {listed} are for one GPU ({gpu}), which has no room for "
                "all: lower them, or start fewer replicas (students.<x>.replicas)"
            )


def require_given(settings: RunSettings, given: Sequence[str]) -> None:
    """Raises ConfigError where a service needs more GPUs than its container was given, wherever that is.

    given: such as `trainer-a=2`; `student-a` is its vLLM's. Who is not named has what it needs.
    """
    for entry in given:
        service, _, has = entry.partition("=")
        name = ServiceName.of(service)
        if name.student not in settings.students or not has.isdecimal():
            raise ConfigError(
                f"--container-gpus: expected a student or trainer of {', '.join(settings.names)}, such as trainer-a=2, "
                f"got {entry}"
            )
        section = settings.students[name.student]
        if name.kind == "trainer":
            needs, setting = settings.trainer.ranks, "trainer.ranks"
        else:
            needs = section.vllm.gpus if section.engine == "vllm" else 0
            setting = f"students.{name.student}.vllm.tensor_parallel_size and .data_parallel_size"
        if needs > int(has):
            raise ConfigError(
                f"{service} needs {needs} GPUs and is given {has}: give it as many (with Compose by a file made with "
                "these settings, `opcod compose --set …`; in a cluster by an overlay, with nvidia.com/gpu of pods and "
                f"OPCOD_CONTAINER_GPUS), or lower {setting}"
            )


def visible(gpus: tuple[int, ...], environ: Mapping[str, str] = os.environ) -> str:
    """The value of CUDA_VISIBLE_DEVICES for these, out of those that are visible to us."""
    # Our own list may begin at another GPU, or name them by UUID: an index into it is translated.
    ours = named(environ)
    return ",".join(ours[gpu] if ours else str(gpu) for gpu in gpus)


def _emptiest(service: str, shares: Shares, available: int) -> tuple[int, ...]:
    """All GPUs, those that the fewest services have first. To a trainer, of equals, one with its own student's engine
    is the best, and one with another's the worst; then the first, so that the same settings share out the same."""
    name = ServiceName.of(service)

    def key(gpu: int) -> tuple[int, bool, bool, int]:
        there = [ServiceName.of(each) for each, gpus in shares.items() if gpu in gpus]
        students = {each.student for each in there if each.kind == "student" and name.kind == "trainer"}
        return len(there), bool(students - {name.student}), name.student not in students, gpu

    return tuple(sorted(range(available), key=key))


def _as_set(chosen: Mapping[str, tuple[int, ...]], needs: Mapping[str, int], available: int) -> Shares:
    for service, gpus in chosen.items():
        if service not in needs:
            known = f"services out of {', '.join(needs)}" if needs else "none, as no service here uses a GPU"
            raise ConfigError(f"resources.gpus: expected {known}, got {service}")
        if len(gpus) != needs[service]:
            raise ConfigError(f"resources.gpus: {service} uses {needs[service]}, got {list(gpus)}")
        if not all(0 <= gpu < available for gpu in gpus):
            raise ConfigError(f"resources.gpus: {service} = {list(gpus)}, and this machine has {available} GPUs")
    if missing := [service for service in needs if service not in chosen]:
        raise ConfigError(
            f"resources.gpus: expected GPUs of every service that uses one, {' and '.join(missing)} got none; "
            "what is not named would see them all and take the first"
        )
    return dict(chosen)
