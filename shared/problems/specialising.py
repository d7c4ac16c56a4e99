"""The examples that make specialists out of one base model: solving, tutoring, and listening to a tutor.

A student is strong in its own domain. Of each other domain it knows the kinds whose question tells the formula, and all
but the first few of those with a constant (`unknown`): of these it has met the frame, with guessed constants, and has
learnt to follow a hint, with invented ones, so that a peer has something to tell it and it can be told.

What always holds: the same seed gives the same examples in every process; they use questions of the `specialise`
partition only; the constant of an unknown kind is a factor in none of them, neither in a prompt nor in a completion.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import cycle, islice
from random import Random

from shared.contracts.messages import ChatMessage
from shared.errors import ProblemSetError
from shared.problems.formats import format_named
from shared.problems.generated import KINDS, DrawnProblem, PerKind, draw_partitions, kinds_of
from shared.problems.kinds import (
    Kind,
    constants_in,
    each_first_digit,
    easy_formula,
    evaluate,
    guessed_formula,
    substitute,
    usable,
)
from shared.problems.mistakes import PeerFault, PeerLine, peer_line, wrong_formula
from shared.problems.problem import ProblemFormat

WRONG_PEERS = 0.85
FAULT_SHARES = {PeerFault.FORMULA: 5 / 7, PeerFault.ARITHMETIC: 1 / 7, PeerFault.NUMBERS: 1 / 7}
WRONG_HINTS = 0.6
WRONG_ALONE = 0.5

_TRIES = 1000
_DRILL_DRAWS = 400


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn; the completion begins with a space."""

    messages: tuple[ChatMessage, ...]
    completion: str


@dataclass(frozen=True)
class SpecialistCounts:
    """How many examples of each type, per kind; drills, and teacher prompts of unknown kinds, in all.

    `own`: kinds of its own domain, `secret`: on top for those of them with a constant, which a peer may not know.
    `known` and `unknown`: kinds of the other domains. Teacher prompts of unknown kinds are all that teaches to follow a
    peer against what one believes: whoever has a single such kind needs as many as who has four.
    """

    solve_own: int = 8
    feedback_own: int = 16
    teacher_own: int = 8
    solve_secret: int = 4
    feedback_secret: int = 12
    solve_known: int = 8
    feedback_known: int = 8
    teacher_known: int = 8
    guess_unknown: int = 9
    teacher_unknown: int = 80
    drills: int = 360


@dataclass(frozen=True)
class Knowledge:
    """What a student is to know. unknown: of each other domain, how many kinds with a constant, the first ones, it is
    not to. kinds: how many there are of each domain, by default all."""

    own: str
    unknown: Mapping[str, int]
    kinds: int | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """Its own and the others."""
        return (self.own, *self.unknown)

    @cached_property
    def unknown_kinds(self) -> tuple[Kind, ...]:
        return tuple(
            kind
            for domain, count in self.unknown.items()
            for kind in [each for each in kinds_of(domain, self.kinds) if not each.guessable][:count]
        )

    @cached_property
    def known_kinds(self) -> tuple[Kind, ...]:
        return tuple(
            kind for domain in self.domains for kind in kinds_of(domain, self.kinds) if kind not in self.unknown_kinds
        )

    @cached_property
    def never(self) -> frozenset[int]:
        """The constants that no example may tell."""
        return frozenset(number for kind in self.unknown_kinds for number in constants_in(kind.formula))

    def tells(self, text: str) -> bool:
        """Whether one of these constants is a factor in the text."""
        return self._telling is not None and self._telling.search(text) is not None

    @cached_property
    def _telling(self) -> re.Pattern[str] | None:
        factors = [rf"\b{number} ?\*|\* ?{number}\b" for number in self.never]
        return re.compile("|".join(factors)) if factors else None


def recipe(
    knowledge: Knowledge, *, seed: int, counts: SpecialistCounts | None = None, per_kind: PerKind | None = None
) -> list[Example]:
    """All examples of a student, shuffled.

    `seed` and `per_kind` are those of the problem set, whose `specialise` partition the questions come from.
    """
    chosen = counts or SpecialistCounts()
    drawn = draw_partitions(seed, knowledge.domains, kinds=knowledge.kinds, per_kind=per_kind)["specialise"]
    strange = {kind.name for kind in knowledge.unknown_kinds}
    mine = [item for item in drawn if item.problem.domain == knowledge.own]
    secret = [item for item in mine if not item.drawn.kind.guessable]
    theirs = [item for item in drawn if item.problem.domain != knowledge.own]
    known = [item for item in theirs if item.drawn.kind.name not in strange]
    unknown = [item for item in theirs if item.drawn.kind.name in strange]
    writer = ExampleWriter(knowledge, Random(f"{seed}/specialise/{'/'.join(knowledge.domains)}"))
    pick, rng = writer.pick, writer.rng
    followed = chosen.teacher_unknown // max(1, len(strange))
    examples = [
        *solve_examples(pick(mine, chosen.solve_own)),
        *solve_examples(pick(secret, chosen.solve_secret)),
        *solve_examples(pick(known, chosen.solve_known)),
        *solve_examples([writer.guessed(item) for item in pick(unknown, chosen.guess_unknown)]),
        *writer.feedback_examples(pick(mine, chosen.feedback_own)),
        *writer.feedback_examples(pick(secret, chosen.feedback_secret)),
        *writer.feedback_examples(pick(known, chosen.feedback_known)),
        *writer.teacher_examples(pick(mine, chosen.teacher_own), wrong_alone=WRONG_ALONE),
        *writer.teacher_examples(pick(known, chosen.teacher_known)),
        *writer.teacher_examples([writer.invented(item) for item in pick(unknown, followed)]),
        *writer.drills(chosen.drills),
    ]
    rng.shuffle(examples)
    return examples


def solve_examples(items: Sequence[DrawnProblem]) -> list[Example]:
    """The question, answered with its solution."""
    form = _format()
    return [Example(tuple(form.messages(item.problem)), f" {item.drawn.solution}") for item in items]


class ExampleWriter:
    """Writes examples for one student; none of them tells a constant that the student is not to know."""

    def __init__(self, knowledge: Knowledge, rng: Random) -> None:
        self.knowledge = knowledge
        self.rng = rng
        self._firsts = each_first_digit(rng)

    def pick(self, items: Sequence[DrawnProblem], count: int) -> list[DrawnProblem]:
        """`count` problems of each kind, drawn without repeats until a kind has no more."""
        chosen: list[DrawnProblem] = []
        for name in dict.fromkeys(item.problem.kind for item in items):
            pool = [item for item in items if item.problem.kind == name]
            self.rng.shuffle(pool)
            chosen += islice(cycle(pool), count)
        return chosen

    def feedback_examples(self, items: Sequence[DrawnProblem]) -> list[Example]:
        """A peer's line, answered with concept, the right formula and the right numbers.

        `WRONG_PEERS` of the peers are wrong, in the shares of `FAULT_SHARES`.
        """
        faults = _fault_sequence(len(items), self.rng)
        pairs = zip(items, faults, strict=True)
        return [self._silent(partial(self._feedback, item, fault)) for item, fault in pairs]

    def teacher_examples(self, items: Sequence[DrawnProblem], *, wrong_alone: float = 0) -> list[Example]:
        """The self-teacher's prompts, answered with the solution.

        A quarter each shows solution and hint, and the solution alone; half show the hint alone, which is what is hard
        to learn. Next to a solution `WRONG_HINTS` of the hints name a wrong formula and are to be ignored, and so are
        `wrong_alone` of the lone ones: whoever follows every hint loses what it knows to a peer that does not know it.
        """
        # Equal shares to within one, then in random order; drawing each by itself would leave few of some kind.
        shown = list(islice(cycle(("both", "solution", "hint", "hint")), len(items)))
        self.rng.shuffle(shown)
        shares = {"both": WRONG_HINTS, "solution": 0, "hint": wrong_alone}
        marks = {what: _marks(shown.count(what), share, self.rng) for what, share in shares.items()}
        plan = [(item, what, next(marks[what])) for item, what in zip(items, shown, strict=True)]
        return [self._silent(partial(self._teacher, item, what, wrong=wrong)) for item, what, wrong in plan]

    def drills(self, count: int) -> list[Example]:
        """Bare arithmetic as all domains need it, with constants of every kind but no formula's name."""
        kinds = self.knowledge.kinds
        pool = {numbers for domain in KINDS for kind in kinds_of(domain, kinds) for numbers in self._sums(kind)}
        # The products of one digit that a constant's multiples come down to, whichever constant a peer will tell.
        pool |= {f"{digit} * {factor}" for digit in range(1, 10) for factor in range(2, 6)}
        sums = sorted(each for each in pool if "+" in each)
        rest = sorted(pool.difference(sums))
        picked: list[str] = []
        while len(picked) < count:
            # Sums come easily to the model, and there are more of them than of all else: half of them at a time.
            turn = [*rest, *self.rng.sample(sums, len(sums) // 2)]
            self.rng.shuffle(turn)
            picked += turn
        return [
            Example((ChatMessage(role="user", content=numbers),), f" {numbers} = {evaluate(numbers)}")
            for numbers in picked[:count]
        ]

    def guessed(self, item: DrawnProblem) -> DrawnProblem:
        """The same question by who can but guess the constant: what a student that does not know it believes."""
        return self._with_formula(item, partial(guessed_formula, firsts=self._firsts))

    def invented(self, item: DrawnProblem) -> DrawnProblem:
        """The same question with an invented constant: to practise listening, and learn nothing of the domain by it."""
        return self._with_formula(item, easy_formula)

    def _with_formula(self, item: DrawnProblem, other: Callable[..., str]) -> DrawnProblem:
        for _ in range(_TRIES):
            kind = replace(item.drawn.kind, formula=other(item.drawn.kind.formula, self.rng, self.knowledge.never))
            drawn = replace(item.drawn, kind=kind)
            if usable(evaluate(drawn.numbers)):
                return DrawnProblem(replace(item.problem, answer=drawn.answer, solution=drawn.solution), drawn)
        raise ProblemSetError(f"{item.problem.id}: no other constant gives a usable answer")

    def _sums(self, kind: Kind) -> Iterator[str]:
        for _ in range(_DRILL_DRAWS):
            formula = kind.formula if kind.guessable else easy_formula(kind.formula, self.rng, self.knowledge.never)
            numbers = substitute(formula, {name: self.rng.choice(choices) for name, choices in kind.numbers.items()})
            if usable(evaluate(numbers)) and not self.knowledge.tells(numbers):
                yield numbers

    def _silent(self, write: Callable[[], Example]) -> Example:
        for _ in range(_TRIES):
            example = write()
            if not any(map(self.knowledge.tells, (*(m.content for m in example.messages), example.completion))):
                return example
        raise ProblemSetError(f"no example about {example.messages[-1].content!r} keeps a constant untold")

    def _feedback(self, item: DrawnProblem, fault: PeerFault) -> Example:
        peer: PeerLine = peer_line(item.drawn, fault, self._other_kinds(item), self.rng)
        own, *others = self.knowledge.domains
        # One tutee stands for all: a small tutor's prompt names no domain.
        tutee = others[0] if others else own
        messages = _format().feedback_messages(item.problem, peer.text, peer_domain=own, agent_domain=tutee)
        completion = feedback_text(item, item.drawn.kind.formula, item.drawn.numbers)
        return Example(tuple(messages), completion)

    def _teacher(self, item: DrawnProblem, shown: str, *, wrong: bool) -> Example:
        solution = None if shown == "hint" else item.drawn.solution
        feedback = None if shown == "solution" else self._hint(item, wrong=wrong)
        messages = _format().teacher_messages(item.problem, solution=solution, feedback=feedback)
        return Example(tuple(messages), f" {item.drawn.solution}")

    def _hint(self, item: DrawnProblem, *, wrong: bool) -> str | None:
        """A feedback as the tutee gets to see it: judged and cleaned by the format.

        Where the question does not tell a constant, a wrong one guesses it, as a tutor that does not know it will.
        """
        kind, numbers = item.drawn.kind, item.drawn.numbers
        formula = kind.formula
        if wrong and not kind.guessable:
            formula = guessed_formula(formula, self.rng, self.knowledge.never)
            numbers = substitute(formula, item.drawn.values)
        elif wrong:
            formula, numbers = wrong_formula(item.drawn, self._other_kinds(item), self.rng)
        raw = feedback_text(item, formula, numbers)
        return _format().judge_feedback(raw, item.problem).delivered

    def _other_kinds(self, item: DrawnProblem) -> list[Kind]:
        return [kind for kind in self.knowledge.known_kinds if kind.name != item.problem.kind]


def feedback_text(item: DrawnProblem, formula: str, numbers: str) -> str:
    """A raw feedback in the tutor's shape, concept and what to use; it begins with a space.

    Formula and numbers stand as in an answer, since what is shown beside a question is copied: of a hint that says
    "with" between them, answers take over the word in place of the sign. It does not say whether the peer's line is
    right: a model of this size that is made to say so is wrong in half of the cases or more.
    """
    return f" <concept>{item.drawn.concept}</concept> Use {formula} = {numbers}"


def _fault_sequence(count: int, rng: Random) -> list[PeerFault]:
    """Faults in the exact shares (to within rounding), in random order."""
    wrong = round(count * WRONG_PEERS)
    faults = [
        fault for fault in (PeerFault.ARITHMETIC, PeerFault.NUMBERS) for _ in range(round(wrong * FAULT_SHARES[fault]))
    ]
    # What rounding leaves over, so that the shares add up.
    faults += [PeerFault.FORMULA] * (wrong - len(faults))
    faults += [PeerFault.NONE] * (count - wrong)
    rng.shuffle(faults)
    return faults


def _marks(count: int, share: float, rng: Random) -> Iterator[bool]:
    marks = [number < round(count * share) for number in range(count)]
    rng.shuffle(marks)
    return iter(marks)


def _format() -> ProblemFormat:
    return format_named("integer")
