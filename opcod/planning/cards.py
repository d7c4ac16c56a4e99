"""What runs on each GPU and what it takes of its memory; and what follows for settings that are left to the plan. Pure.

What always holds: nothing is planned above what a card has less a reserve; a card that cannot hold the least of its
processes is refused with the sum, and nothing is derived then; what is set is kept, and counted as set.

The least comes first: a server with a cache for one sequence of the longest, a trainer with its longest row. Of what is
left, trainers get all for larger passes, or half where there are servers, whose caches get the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from opcod.local.gpus import Shares
from opcod.local.names import ServiceName
from opcod.planning.memory import (
    ACTIVATIONS,
    MOMENTS,
    Need,
    sequence_bytes,
    served_tokens,
    server_need,
    specialist_need,
    student_need,
    trainer_need,
)
from opcod.planning.shapes import ModelShape
from opcod.planning.work import Lengths
from shared.config.settings import RunSettings
from shared.config.training import CPU_PASS_TOKENS
from shared.config.vllm import VllmSection

# Of a card: what the driver keeps, what is lost between the allocator's pieces, and what was not counted.
RESERVE = 0.04
# The matrices of a pass are large enough by then: more is no faster.
LARGEST_PASS = 16384
GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """A GPU with `bytes` of memory. needs: of what is on it during the run; before: of what has it alone before that,
    one after the other. turns: those of `needs` work there one at a time, and the others rest."""

    number: int
    bytes: int
    needs: tuple[Need, ...]
    before: tuple[Need, ...] = ()
    turns: bool = False

    @property
    def room(self) -> int:
        """What may be planned."""
        return round(self.bytes * (1 - RESERVE))

    @property
    def left(self) -> int:
        """Of its room; negative where there is too little."""
        return min([self.left_to(need) for need in self.needs], default=self.room)

    def left_to(self, need: Need) -> int:
        """Of its room, while that one of `needs` works."""
        others = [each for each in self.needs if each is not need]
        return self.room - need.bytes - sum(each.resting if self.turns else each.bytes for each in others)


@dataclass(frozen=True)
class ServerPlan:
    """Settings of a student's vLLM server, by their names; None where they are set, or stay as the server has them."""

    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    max_model_len: int | None = None


@dataclass(frozen=True)
class CardPlan:
    """pass_tokens: `optimizer.micro_batch_tokens`, None where it is set. servers: by student. refused: why it cannot be
    (cards then have the least that each process needs, and nothing else is planned)."""

    cards: tuple[Card, ...] = ()
    pass_tokens: int | None = None
    servers: Mapping[str, ServerPlan] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What is planned, nested as settings are."""
        servers = {
            student: {"vllm": {name: value for name, value in asdict(server).items() if value is not None}}
            for student, server in self.servers.items()
            if server != ServerPlan()
        }
        optimizer = {} if self.pass_tokens is None else {"micro_batch_tokens": self.pass_tokens}
        return {name: each for name, each in (("optimizer", optimizer), ("students", servers)) if each}


@dataclass(frozen=True)
class CardPlanner:
    """A run and the GPUs that it is to be on.

    shapes: of the models, by student. sizes: bytes of each card. shares: which cards each service is on. begun:
    tokens of a pass, of a run that goes on.
    """

    settings: RunSettings
    shapes: Mapping[str, ModelShape]
    lengths: Lengths
    shares: Shares
    sizes: Sequence[int]
    begun: int | None = None

    def plan(self) -> CardPlan:
        caches = self._set_caches()
        least = {service: self._need(service, caches=caches) for service in self.shares}
        cards = self._cards(least)
        each = (
            *self._uneven_servers(),
            *self._small_servers(least),
            *(reason for card in cards for reason in self._refusals(card)),
        )
        refused = list(dict.fromkeys(each))  # replicas on cards of one size have one reason
        if refused:
            return CardPlan(cards, refused=tuple(refused))
        tokens = self._pass_tokens(least, cards)
        larger = {service: self._need(service, tokens, caches) for service in self.shares}
        caches |= self._grown_caches(self._cards(larger))
        needs = {service: self._need(service, tokens, caches) for service in self.shares}
        return CardPlan(self._cards(needs), tokens, self._server_plans(needs, caches))

    # What each takes -----------------------------------------------------------------------------------
    def _need(self, service: str, tokens: int | None = None, caches: Mapping[str, int] | None = None) -> Need:
        """Of each of its cards. tokens: of a trainer's pass; caches: bytes of a server's, by service."""
        kind, student, _ = ServiceName.of(service)
        shape, settings, lengths = self.shapes[student], self.settings, self.lengths
        if kind == "trainer":
            return trainer_need(student, settings, shape, lengths, gpu=True, pass_tokens=tokens)
        need = (
            student_need(student, settings, shape, lengths, gpu=True)
            if self._server(service) is None
            else server_need(student, settings, shape, lengths, (caches or {}).get(service))
        )
        return replace(need, service=service)

    def _server(self, service: str) -> VllmSection | None:
        """Of a service that has a vLLM server."""
        kind, student, _ = ServiceName.of(service)
        section = self.settings.students[student]
        return section.vllm if kind == "student" and section.engine == "vllm" else None

    def _servers(self) -> Iterator[tuple[str, str, VllmSection]]:
        """Service, student and settings."""
        for service in self.shares:
            if (section := self._server(service)) is not None:
                yield service, ServiceName.of(service).student, section

    def _cards(self, needs: Mapping[str, Need]) -> tuple[Card, ...]:
        return tuple(
            Card(
                number,
                size,
                tuple(need for service, need in needs.items() if number in self.shares[service]),
                tuple(self._specialists(number)),
                self.settings.resources.turns,
            )
            for number, size in enumerate(self.sizes)
        )

    def _specialists(self, number: int) -> Iterator[Need]:
        """Of the students that are fine-tuned on this card, which is their trainer's."""
        for student, section in self.settings.students.items():
            if section.specialize and number in self.shares.get(f"trainer-{student}", ()):
                shape = self.shapes[student]
                yield specialist_need(student, self.settings, shape, self.lengths)

    # What is set -----------------------------------------------------------------------------------------
    def _set_caches(self) -> dict[str, int]:
        """Of servers whose cache is set, or follows from their share of a card; one sequence at least."""
        found = {}
        for service, student, section in self._servers():
            if section.kv_cache_memory_bytes is not None:
                found[service] = section.kv_cache_memory_bytes
            elif section.gpu_memory_utilization != "auto":
                besides = self._need(service, caches={service: 0}).bytes
                taken = section.gpu_memory_utilization * min(self.sizes[gpu] for gpu in self.shares[service])
                found[service] = max(round(taken) - besides, self._sequence(student))
        return found

    def _sequence(self, student: str) -> int:
        return sequence_bytes(student, self.settings, self.shapes[student], self.lengths)

    def _uneven_servers(self) -> Iterator[str]:
        """A server gives each of its GPUs as many heads of attention, of keys at least one."""
        for _, student, section in self._servers():
            shape, split = self.shapes[student], section.tensor_parallel_size
            if split in (sizes := _even_splits(shape)):
                continue
            yield (
                f"students.{student}.vllm.tensor_parallel_size = {split} does not share out the attention of this "
                f"model, {shape.heads} heads of queries and {shape.key_heads} of keys: set "
                f"{' or '.join(map(str, sizes))}, and vllm.data_parallel_size or replicas for more GPUs"
            )

    def _small_servers(self, least: Mapping[str, Need]) -> Iterator[str]:
        for service, student, section in self._servers():
            if section.gpu_memory_utilization == "auto":
                continue
            smallest = min(self.sizes[gpu] for gpu in self.shares[service])
            takes = section.gpu_memory_utilization * smallest
            if least[service].bytes > takes * (1 + 1e-9):
                yield (
                    f"students.{student}.vllm.gpu_memory_utilization = {section.gpu_memory_utilization:g} is "
                    f"{_gib(takes)} GiB of a card of {_gib(smallest)}, and the server needs "
                    f"{_gib(least[service].bytes)} with one sequence of the longest: raise it, or leave it to the plan"
                )

    # What is refused -------------------------------------------------------------------------------------
    def _refusals(self, card: Card) -> Iterator[str]:
        if card.left < 0 and not self._is_left_to_its_server(card):
            each = ", ".join(f"{need.service} {_gib(need.bytes)}" for need in card.needs)
            yield (
                f"GPU {card.number} has {_gib(card.bytes)} GiB, of which {_gib(card.room)} can be planned with; what "
                f"runs there needs {_gib(card.room - card.left)} at least ({each}): {self._advice(card)}"
            )
        for need in card.before:
            if need.bytes > card.room:
                yield (
                    f"GPU {card.number} has {_gib(card.bytes)} GiB, of which {_gib(card.room)} can be planned with; to "
                    f"fine-tune student {_student(need)} takes {_gib(need.bytes)}: bring a specialist "
                    f"(students.{_student(need)}.specialize = false), or take a larger card"
                )

    def _is_left_to_its_server(self, card: Card) -> bool:
        """Whether there is nothing but a server whose share is set: it may take more than we would plan with."""
        servers = [self._server(need.service) for need in card.needs]
        return len(servers) == 1 and servers[0] is not None and servers[0].gpu_memory_utilization != "auto"

    def _advice(self, card: Card) -> str:
        """What may help, and of what makes a difference here only."""
        ways = []
        trainers = [need for need in card.needs if need.service.startswith("trainer")]
        activations = sum(part.bytes for need in trainers for part in need.parts if part.name.startswith(ACTIVATIONS))
        if len(card.needs) > 1 and max(need.bytes for need in card.needs) <= card.room and not card.turns:
            ways.append("give them more cards (resources.gpus)")
            if replace(card, turns=True).left >= 0 and self._could_take_turns():
                ways.append("let them take turns on one (resources.turns = true)")
        if any(ServiceName.of(need.service).replica for need in card.needs) and len(card.needs) > 1:
            ways.append("start fewer replicas (students.<x>.replicas)")
        if card.left + activations > 0:
            ways.append("shorten answers or passes (rollout.max_tokens, optimizer.micro_batch_tokens)")
            ways += (
                []
                if self.settings.trainer.recomputes("cuda")
                else ["make activations again (trainer.recompute = true)"]
            )
        moments = sum(part.bytes for need in trainers for part in need.parts if part.name.startswith(MOMENTS))
        if card.left + activations + moments > 0 and self.settings.optimizer.offload != "moments":
            ways.append('keep the optimizer in the host\'s memory (optimizer.offload = "moments")')
        if trainers and self.settings.run.weights == "full":
            ways.append("share the weights out over ranks (trainer.ranks)")
            ways.append('train an adapter (run.weights = "lora")')
        if any(self._server(need.service) is not None for need in card.needs) and len(card.needs) == 1:
            ways.append("split the server over several (students.<x>.vllm.tensor_parallel_size)")
        return ", or ".join([*ways, "take larger cards or a smaller model"])

    def _could_take_turns(self) -> bool:
        """Whether the settings go with turns, which `shared/config/combinations.py` has all of."""
        settings = self.settings
        engines = [section for section in settings.students.values() if section.engine != "scripted"]
        sleeping = all(each.engine == "vllm" and each.vllm.url is None and each.vllm.gpus == 1 for each in engines)
        one = settings.trainer.ranks == settings.resources.nodes == 1
        single = all(section.replicas == 1 for section in settings.students.values())
        return sleeping and one and single and settings.run.weights == "lora" and not settings.run.stream

    # What is left to the plan ----------------------------------------------------------------------------
    def _pass_tokens(self, least: Mapping[str, Need], cards: Sequence[Card]) -> int | None:
        """The largest pass that every trainer has room for; None where it is set, or there is no trainer."""
        trainers = [service for service in self.shares if service.startswith("trainer")]
        if self.settings.optimizer.micro_batch_tokens != "auto" or not trainers:
            return None
        before: list[int] = [] if self.begun is None else [self.begun]
        tokens: int
        for tokens in [*before, *range(LARGEST_PASS, CPU_PASS_TOKENS, -CPU_PASS_TOKENS)]:
            if all(
                self._need(trainer, tokens).bytes - least[trainer].bytes <= self._allowance(cards[gpu], trainer)
                for trainer in trainers
                for gpu in self.shares[trainer]
            ):
                return tokens
        return CPU_PASS_TOKENS

    def _allowance(self, card: Card, trainer: str) -> int:
        """Of what is left on a card, what each trainer there may have for larger passes."""
        if card.turns:
            return next(card.left_to(need) for need in card.needs if need.service == trainer)
        trainers = sum(need.service.startswith("trainer") for need in card.needs)
        growing = any(need.service in self._growing() for need in card.needs)
        return card.left // (2 * trainers if growing else trainers)

    def _growing(self) -> dict[str, str]:
        """Students by service, of servers whose cache is left to the plan."""
        return {
            service: student
            for service, student, section in self._servers()
            if section.kv_cache_memory_bytes is None and section.gpu_memory_utilization == "auto"
        }

    def _grown_caches(self, cards: Sequence[Card]) -> dict[str, int]:
        """What is left, in equal parts, and no more than all slots take at their longest."""
        growing, least = self._growing(), dict[str, int]()
        for service, student in growing.items():
            section, one = self.settings.students[student], self._sequence(student)
            wished = -(-section.slots // section.vllm.data_parallel_size) * one
            shares = [self._growth(cards[gpu], service, growing) for gpu in self.shares[service]]
            cache = min(one + min(shares), max(wished, one))
            # One setting for all replicas of a student: what the one with the least room has.
            least[student] = min(cache, least.get(student, cache))
        return {service: least[student] for service, student in growing.items()}

    @staticmethod
    def _growth(card: Card, service: str, growing: Mapping[str, str]) -> int:
        """Of what is left on a card, what the cache of that server may have."""
        if card.turns:
            return next(card.left_to(need) for need in card.needs if need.service == service)
        return card.left // sum(need.service in growing for need in card.needs)

    def _server_plans(self, needs: Mapping[str, Need], caches: Mapping[str, int]) -> dict[str, ServerPlan]:
        found, growing = {}, self._growing()
        for service, student, section in self._servers():
            # Of all its replicas' cards: they have one setting.
            cards = {gpu for each, owner, _ in self._servers() if owner == student for gpu in self.shares[each]}
            # Rounded down: the server looks whether its share is free.
            share = int(1000 * needs[service].bytes / max(self.sizes[gpu] for gpu in cards)) / 1000
            tokens = served_tokens(student, self.settings, self.shapes[student], self.lengths)
            found[student] = ServerPlan(
                share if section.gpu_memory_utilization == "auto" else None,
                caches[service] if service in growing else None,
                tokens if section.max_model_len is None else None,
            )
        return found


def _even_splits(shape: ModelShape) -> list[int]:
    return [
        size
        for size in range(1, shape.heads + 1)
        if shape.heads % size == 0 and 0 in (shape.key_heads % size, size % shape.key_heads)
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _student(need: Need) -> str:
    """Of a service's need, the student that it is for."""
    return ServiceName.of(need.service).student
