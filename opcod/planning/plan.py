"""The plan of a run (`opcod run --dry-run`), from its settings and from what is on this machine, and as text.

What always holds: nothing is written but what the hub client keeps of a data set that is named by hub id; no model is
fetched, converted or loaded; what is missing is collected, so that one look shows all of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from opcod.installed import require_model_packages
from opcod.local.cards import card_sizes, given_sizes
from opcod.local.gpus import Shares, require_room, share_out_all, sharing
from opcod.local.host_memory import memory_here
from opcod.planning.cards import GIB, CardPlan
from opcod.planning.contexts import crowded, too_long
from opcod.planning.disk import DiskPart, disk_grid, disk_parts, require_disk
from opcod.planning.host import host_needs, memory_lines, process_needs
from opcod.planning.machine import counting, plan_shares
from opcod.planning.memory import Need, other_needs
from opcod.planning.shapes import KNOWN_SHAPES, ModelShape, context_in, read_shape
from opcod.planning.work import (
    Count,
    Evaluated,
    Lengths,
    Work,
    prompt_lengths,
    prompts_asked,
    refused_prompt,
    total_steps,
    trained_tokens,
    work_of,
)
from opcod.prepare.checks import replica_notes, thinking_notes
from shared.config.loading import flattened, to_toml
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError, OpcodError, PromptError, file_fault
from shared.gpus import gpus_here
from shared.problems.coverage import told_of
from shared.problems.evaluation import evaluated_problems
from shared.problems.examples import examples_for
from shared.problems.loading import load_problems
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import ProblemSet
from shared.problems.rejection import own_problems
from shared.results.grid import Grid, Value, plain, terminal
from shared.results.report import unclaimed_text
from shared.vllm import find_installation


def show_plan(paths: Paths, settings: RunSettings, gpus: str | None = None) -> None:
    """Print the plan. gpus: cards to plan for in place of those that are here, such as "2x80".

    Raises ConfigError, after all of it, if a run of these settings could not begin.
    """
    found = plan_run(paths, settings, None if gpus is None else given_sizes(gpus))
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.print(to_toml(settings))
    for grid in grids(found):
        console.print(terminal(grid))
    for line in lines(found):
        console.print(line)
    # Last: who plans wants to see all that is known, and only then what is not.
    if found.missing:
        raise ConfigError("a run of these settings cannot begin yet:\n  " + "\n  ".join(found.missing))


@dataclass
class Planned:
    """missing: why a run of these settings could not begin now. notes: what will be done first, or is assumed.
    contexts: tokens that each student's model takes, 0 where that is not known. host: bytes of memory that a run may
    have on this machine, 0 where it is not what is planned for."""

    settings: RunSettings
    problems: ProblemSetManifest | None = None
    lengths: Lengths | None = None
    work: list[Work] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    on_gpu: list[Need] = field(default_factory=list)
    disk: list[DiskPart] = field(default_factory=list)
    on_host: list[Need] = field(default_factory=list)
    gpus: int = 0
    host: int = 0
    shares: Shares = field(default_factory=dict)
    contexts: dict[str, int] = field(default_factory=dict)
    cards: CardPlan = field(default_factory=CardPlan)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_run(paths: Paths, settings: RunSettings, sizes: Sequence[int] | None = None) -> Planned:
    """Everything that can be known before a run begins. sizes: of cards in place of those that are here."""
    found = Planned(settings, host=memory_here() if sizes is None else 0)
    problems: ProblemSet | None = None
    evaluated: Evaluated | None = None
    # Each look by itself: one that fails must not hide what the next one would find.
    with _noted(found.missing):
        problems = load_problems(settings)
        found.problems = manifest(problems)
        found.notes += told_of(problems)
        found.notes += [unclaimed_text([domain]) for domain in problems.domains if domain not in settings.domains]
        evaluated = evaluated_problems(settings, problems)
    _look_at_specialists(found, problems)
    _look_at_engines(found)
    with _noted(found.missing):
        found.gpus = gpus_here() if sizes is None else len(sizes)
        found.shares = share_out_all(settings, found.gpus)
    count: Count | None = None
    shapes: dict[str, ModelShape] = {}
    with _noted(found.missing):
        require_model_packages("a run")
        count, shapes = _look_at_models(found, paths, problems)
        found.notes += thinking_notes(paths, settings, prepared=False)
    found.disk = disk_parts(settings, shapes)
    with _noted(found.missing):
        require_disk(paths, settings, shapes)
    if problems is not None and evaluated is not None:
        found.lengths = prompt_lengths(problems, settings, None)
        with _noted(found.missing):
            found.lengths = prompt_lengths(problems, settings, count)
        if found.lengths.measured:
            found.missing += too_long(settings, found.contexts, found.lengths)
            found.notes += crowded(settings, found.contexts, found.lengths)
        found.work = work_of(settings, len(problems.train), evaluated, found.lengths)
        with _noted(found.missing):
            _look_at_cards(found, shapes, found.lengths, sizes)
        # Either way: who plans on a laptop for another machine sees both.
        found.on_gpu = process_needs(settings, shapes, found.lengths, gpu=True)
        on_this = process_needs(settings, shapes, found.lengths, gpu=found.gpus > 0)
        found.needs = [*on_this, *(other_needs() if shapes else ())]
        found.on_host = [*host_needs(settings, shapes), *other_needs()] if shapes and found.gpus else []
    return found


def _look_at_cards(
    found: Planned, shapes: dict[str, ModelShape], lengths: Lengths, sizes: Sequence[int] | None
) -> None:
    require_room(found.settings, found.shares)
    if not shapes or not found.shares:
        return
    here = card_sizes() if sizes is None else tuple(sizes)
    each = None if here is None else here * found.settings.resources.nodes
    found.cards = plan_shares(found.settings, shapes, lengths, found.shares, each)
    found.missing += found.cards.refused


def _look_at_specialists(found: Planned, problems: ProblemSet | None) -> None:
    for student in found.settings.names:
        with _noted(found.missing):
            if found.settings.learns_from_itself(student):
                found.notes += [_own_answers(found.settings, student, problems)] if problems is not None else []
            elif found.settings.students[student].specialize:
                count = len(examples_for(found.settings, student))
                found.notes.append(f"student {student} is fine-tuned first, on {count} examples, unless it is cached")


def _own_answers(settings: RunSettings, student: str, problems: ProblemSet) -> str:
    section = settings.specialize.sampling
    asked = len(own_problems(settings, student, problems))
    texts = asked * section.samples
    return (
        f"student {student} is fine-tuned first, on at most {section.keep} right answers of its own to each of {asked} "
        f"training problems; {texts:,} are drawn, {texts * section.max_tokens:,} tokens at most, unless it is cached"
    )


def _look_at_engines(found: Planned) -> None:
    found.notes += replica_notes(found.settings)
    for student in found.settings.names:
        section = found.settings.students[student]
        if section.engine != "vllm":
            continue
        if section.vllm.url is not None:
            found.notes.append(f"student {student} expects vLLM at {section.vllm.url}")
            continue
        with _noted(found.missing):
            installation = find_installation(section.vllm)
            kind = " for CPUs" if installation.on_cpu else ""
            found.notes.append(f"student {student} starts vLLM {installation.version}{kind}")


def _look_at_models(
    found: Planned, paths: Paths, problems: ProblemSet | None
) -> tuple[Count | None, dict[str, ModelShape]]:
    """How the first student's tokenizer counts (None without one), and the shapes that are known, by student."""
    settings = found.settings
    with_models = [name for name in settings.names if settings.students[name].engine != "scripted"]
    if not with_models:  # what imports torch takes seconds
        return None, {}
    from shared.modeling.loading import check_model, load_tokenizer
    from shared.modeling.resolving import find_model
    from shared.modeling.serving import require_served

    count: Count | None = None
    shapes: dict[str, ModelShape] = {}
    for student in with_models:
        section = settings.students[student]
        with _noted(found.missing):
            directory = find_model(section.model, paths.cache_dir)
            if directory is None:
                shape = KNOWN_SHAPES.get(section.model)
                found.notes.append(f"student {student}: {section.model} is not on this machine and is fetched first")
            else:
                check_model(directory)
                require_served(directory, section.engine, settings.run.weights, settings.adapts_from(student))
                counted = counting(load_tokenizer(directory, section.chat_template))
                # Prompts are counted with one tokenizer: lengths are an estimate for all students.
                if _takes_prompts(found, student, problems, counted):
                    count = count or counted
                shape, found.contexts[student] = read_shape(directory), context_in(directory)
            if shape is None:
                found.notes.append(f"student {student}: {section.model} is of unknown size, and so is its memory")
            else:
                shapes[student] = shape
                found.contexts.setdefault(student, shape.context)
    return count, shapes


def _takes_prompts(found: Planned, student: str, problems: ProblemSet | None, count: Count) -> bool:
    """Whether the student's chat template takes every kind of prompt of a run; what it does not take is noted."""
    if problems is None:
        return True
    try:
        for messages in prompts_asked(problems, found.settings):
            count(messages)
    except PromptError as error:
        found.missing.append(refused_prompt(student, error))
        return False
    return True


@contextmanager
def _noted(missing: list[str]) -> Iterator[None]:
    """Errors that name what the user has to do are noted instead of raised."""
    try:
        yield
    except (OpcodError, OSError) as error:
        told = file_fault(error) if isinstance(error, OSError) else str(error)
        if told is None:
            raise
        # Both students may lack the same thing.
        if told not in missing:
            missing.append(told)


def grids(found: Planned) -> Iterator[Grid]:
    """Partitions, work, memory and disk, as far as they are known."""
    if found.problems is not None:
        yield _partitions(found.problems)
    if found.work:
        yield _work(found)
    if found.cards.cards:
        yield _cards(found.cards)
        yield _on_host(found.on_host)
    elif found.needs:
        yield _memory(found)
    yield disk_grid(found.disk)


def lines(found: Planned) -> Iterator[str]:
    """What a table does not say, in plain words."""
    if found.problems is not None:
        yield from _problem_lines(found.problems)
    if found.lengths is not None:
        settings, run = found.settings, found.settings.run
        each = run.rounds * run.steps_per_round
        yield f"Steps: {run.rounds} rounds of {run.steps_per_round}, {each} a student, {total_steps(settings)} in all."
        yield f"A step trains on at most {trained_tokens(settings, found.lengths):,} tokens of the student's."
        yield _length_line(found.lengths)
    if found.needs:
        yield from memory_lines(found.settings, found.needs, found.on_host, found.host)
    yield from _gpu_lines(found)
    yield from (f"Note: {note}." for note in found.notes)


def _partitions(problems: ProblemSetManifest) -> Grid:
    rows = []
    for name, part in problems.partitions.items():
        for domain, one in part.domains.items():
            majority = f"{one.majority_answer}: {100 * one.majority_share:.0f} %"
            rows.append([name, domain, str(one.count), majority, part.sha256[:16]])
    header = plain("partition", "domain", "problems", "most frequent answer", "sha256 of the partition")
    return Grid(f"Problems {problems.name} ({problems.content_hash[:16]})", header, rows)


def _problem_lines(problems: ProblemSetManifest) -> Iterator[str]:
    yield "Leak check: passed, no question stands in two partitions."
    origin = problems.provenance
    if origin is None:
        return
    for name, sha256 in origin.files.items():
        yield f"File {name}: sha256 {sha256}"
    if origin.dropped:
        listed = ", ".join(f"{row.id} (as {row.same_as} in {row.partition})" for row in origin.dropped)
        yield f"Left out of training, {len(origin.dropped)}: {listed}"
    if origin.shared_stems:
        yield f"Test problems that share a stem with training ones, {len(origin.shared_stems)}: " + ", ".join(
            origin.shared_stems
        )


def _work(found: Planned) -> Grid:
    rows = [
        [each.kind, f"{each.jobs:,}", f"{each.texts:,}", f"{each.prompt_tokens:,}", f"{each.output_tokens:,}"]
        for each in found.work
    ]
    header = plain("job", "jobs", "texts", "prompt tokens", "output tokens")
    return Grid("Work of all students, at most", header, rows)


def _memory(found: Planned) -> Grid:
    """Of each service, and beside it, where no GPU is here, what it would be on one."""
    here = {need.service: need for need in found.needs}
    there = {need.service: need for need in found.on_gpu} if not found.gpus else {}
    rows = []
    for service in here:
        both = here[service], there.get(service)
        rows.append([service, "", *(_gib(need.bytes if need else None) for need in both)])
        parts = [{part.name: part.bytes for part in need.parts} if need else {} for need in both]
        # A dict and not a set, for its order.
        names = dict.fromkeys([*parts[0], *parts[1]]) if len(parts[0]) > 1 else {}
        rows += [["", name, *(_gib(each.get(name)) for each in parts)] for name in names]
    if not there:
        return Grid("Memory, GiB, estimated", plain("service", "of which", "GiB"), [row[:3] for row in rows])
    return Grid("Memory, GiB, estimated", plain("service", "of which", "on this CPU", "on a GPU"), rows)


def _cards(plan: CardPlan) -> Grid:
    """Of each card what runs on it, part by part, and what is left."""
    rows: list[list[Value]] = []
    for card in plan.cards:
        rows.append([f"GPU {card.number}", "", "", _gib(card.bytes)])
        for need in card.needs:
            rows.append(["", need.service, "", _gib(need.bytes)])
            rows += [["", "", part.name, _gib(part.bytes)] for part in need.parts]
        rows.append(["", "not planned with", "", _gib(card.bytes - card.room + card.left)])
        rows += [["", f"{need.service}, before the run", "", _gib(need.bytes)] for need in card.before]
    return Grid("Memory by card, GiB, estimated", plain("card", "service", "of which", "GiB"), rows)


def _on_host(needs: list[Need]) -> Grid:
    rows: list[list[Value]] = [[need.service, _gib(need.bytes)] for need in needs]
    return Grid("Memory of the host, GiB, estimated", plain("process", "GiB"), rows)


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"


def _length_line(lengths: Lengths) -> str:
    how = "measured" if lengths.measured else "estimated: no tokenizer is here"
    tokens = f"{lengths.mean:.0f} tokens in the mean, {lengths.longest} at most"
    return f"Prompts: {tokens} ({how}; {lengths.problems} problems)."


def _gpu_lines(found: Planned) -> Iterator[str]:
    if not found.gpus:
        yield "No GPU is visible: models run on the CPU."
        return
    each = ", ".join(f"{service} on {','.join(map(str, gpus))}" for service, gpus in found.shares.items())
    if each or not found.missing:
        yield f"GPUs, of {found.gpus}: {each or 'none is used'}."
    yield from (f"Note: {note}." for note in sharing(found.shares, turns=found.settings.resources.turns))
    if planned := flattened(found.cards.settings()):
        yield "Planned: " + ", ".join(f"{name} = {value}" for name, value in planned.items()) + "."
