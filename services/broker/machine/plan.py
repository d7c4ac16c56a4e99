"""The plan of a run: everything about it that is fixed before it starts, as the state machine needs it.

Pure: the problems of any step follow from seed, student and step number alone, so nothing about the order
has to be stored, and a resumed run draws the same problems.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

from shared.config.alarms import AlarmsSection
from shared.contracts.batches import mini_batch_of, positions_of
from shared.contracts.ids import seed_of
from shared.contracts.run import Split


@dataclass(frozen=True)
class PlannedProblem:
    id: str
    domain: str
    kind: str = ""


@dataclass(frozen=True)
class Plan:
    """strong_domain: by student. partitions: problems by split, in the order in which they are evaluated.

    latest_tutor: a phase's tutor is frozen when the phase begins, not when its round does.
    keep_best: the last test is of each student's best validated version, which is live from then on.
    streamed: mini-batches of a step whose groups are sealed ahead of their batch; None where they are not.
    majority: by split and domain, what the best constant answer would score on those problems.
    """

    run: str
    seed: int
    rounds: int
    steps_per_round: int
    parallel: bool
    gate_mode: str
    gate_scope: str
    tutor_choice: str
    tau: float
    max_break_rate: float
    strong_domain: dict[str, str]
    train: tuple[PlannedProblem, ...]
    partitions: dict[Split, tuple[PlannedProblem, ...]]
    majority: dict[Split, dict[str, float]]
    samples: dict[Split, int]
    rollout_samples: int
    problems_per_job: int
    problems_per_step: int
    balance_domains: bool
    balance_kinds: bool
    tutor_timeout_s: float
    revise_share: float
    alarms: AlarmsSection
    hysteresis: float
    latest_tutor: bool
    keep_best: bool
    streamed: int | None = None

    @property
    def students(self) -> tuple[str, ...]:
        return tuple(sorted(self.strong_domain))

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Those of the students, in their order, then those that no student is strong in."""
        strong = (self.strong_domain[student] for student in self.students)
        return tuple(dict.fromkeys([*strong, *(problem.domain for problem in self.train)]))

    def domain_of(self, problem_id: str) -> str:
        """Of a training problem."""
        return self._domains_by_id[problem_id]

    @cached_property
    def _domains_by_id(self) -> dict[str, str]:
        return {problem.id: problem.domain for problem in self.train}

    @cached_property
    def _pools(self) -> dict[str, tuple[PlannedProblem, ...]]:
        """The training problems of each domain."""
        pools: dict[str, list[PlannedProblem]] = {domain: [] for domain in self.domains}
        for problem in self.train:
            pools[problem.domain].append(problem)
        return {domain: tuple(pool) for domain, pool in pools.items()}

    def peers_of(self, student: str) -> tuple[str, ...]:
        """The others, from the next one on, and round."""
        at = self.students.index(student)
        # Not the same first one for everybody: among equals the first is asked.
        return self.students[at + 1 :] + self.students[:at]

    def chunk(self, split: Split, index: int) -> tuple[PlannedProblem, ...]:
        """The problems of one evaluation job."""
        start = index * self.problems_per_job
        return self.partitions[split][start : start + self.problems_per_job]

    def chunks(self, split: Split) -> int:
        return -(-len(self.partitions[split]) // self.problems_per_job)

    def step_problems(self, student: str, step: int) -> list[PlannedProblem]:
        """Problems of `step` (from 1): consecutive pieces of a seeded order that is drawn anew each epoch.

        With `balance_domains` every step takes equally many from each domain's own order, with `balance_kinds` these
        orders go through the kinds in turn: no kind comes a second time before all others did.
        """
        if not self.balance_domains:
            return self._draw(student, "all", self.train, step, self.problems_per_step)
        share = self.problems_per_step // len(self.domains)
        return [
            problem
            for domain in self.domains
            for problem in self._draw(student, domain, self._pools[domain], step, share)
        ]

    def mini_batches(self, problem_ids: Collection[str]) -> dict[str, int]:
        """Of a step that is streamed: the mini-batch of each of its problems, from 0; in the order of the batch."""
        assert self.streamed is not None
        positions = positions_of(problem_ids)
        return {name: mini_batch_of(position, len(positions), self.streamed) for name, position in positions.items()}

    def training_shares(self) -> dict[str, float]:
        """The share of each domain in what a student is trained on."""
        if self.balance_domains:
            return {domain: 1 / len(self.domains) for domain in self.domains}
        return {domain: len(self._pools[domain]) / len(self.train) for domain in self.domains}

    def revises(self, student: str, step: int, problem_id: str) -> bool:
        """Whether this group is in the share whose student answers again after feedback."""
        draw = random.Random(seed_of(self.seed, student, step, problem_id, "revise"))
        return draw.random() < self.revise_share

    def _draw(
        self, student: str, name: str, pool: tuple[PlannedProblem, ...], step: int, count: int
    ) -> list[PlannedProblem]:
        """`count` problems of the step; a step at an epoch's end may hold a problem only once."""
        drawn: list[PlannedProblem] = []
        # By epoch, of which a step touches two at most: with many problems it is the shuffle that takes time.
        orders: dict[int, list[PlannedProblem]] = {}
        # Straight from the step's number, so that a step can be drawn without the ones before it.
        position = (step - 1) * count
        while len(drawn) < min(count, len(pool)):
            epoch, index = divmod(position, len(pool))
            if epoch not in orders:
                orders[epoch] = self._order(seed_of(self.seed, student, name, epoch), pool)
            candidate = orders[epoch][index]
            if candidate not in drawn:
                drawn.append(candidate)
            position += 1
        return drawn

    def _order(self, seed: int, pool: tuple[PlannedProblem, ...]) -> list[PlannedProblem]:
        order = list(pool)
        rng = random.Random(seed)
        rng.shuffle(order)
        if not self.balance_kinds:
            return order
        by_kind: dict[str, list[PlannedProblem]] = {}
        for problem in order:
            by_kind.setdefault(problem.kind, []).append(problem)
        turns = [[problem for problem in turn if problem] for turn in zip_longest(*by_kind.values())]
        # Within a turn the kinds are shuffled anew, or each step would begin with the same kind.
        for turn in turns:
            rng.shuffle(turn)
        return [problem for turn in turns for problem in turn]
