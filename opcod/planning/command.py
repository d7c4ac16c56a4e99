"""`opcod run --dry-run`: the plan of a run on the terminal."""

from collections.abc import Iterator

from rich.console import Console

from opcod.local.gpus import sharing
from opcod.planning.facts import Planned, plan_run
from opcod.planning.lengths import Lengths
from opcod.planning.memory import total_bytes
from opcod.planning.work import total_steps, trained_tokens
from shared.config.loading import to_toml
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError
from shared.problems.manifest import ProblemSetManifest
from shared.results.grid import Grid, plain, terminal

_GIB = 1 << 30


def show_plan(paths: Paths, settings: RunSettings) -> None:
    """Print the plan. Raises ConfigError, after all of it, if a run of these settings could not begin."""
    found = plan_run(paths, settings)
    console = Console(soft_wrap=True)
    console.print(to_toml(settings), highlight=False, markup=False)
    for grid in grids(found):
        console.print(terminal(grid))
    for line in lines(found):
        console.print(line, highlight=False, markup=False)
    if found.missing:
        raise ConfigError("a run of these settings cannot begin yet:\n  " + "\n  ".join(found.missing))


def grids(found: Planned) -> Iterator[Grid]:
    """Partitions, work and memory, as far as they are known."""
    if found.problems is not None:
        yield _partitions(found.problems)
    if found.work:
        yield _work(found)
    if found.needs:
        yield _memory(found)


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
        yield _total_line(found)
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
    return Grid("Work of both students, at most", header, rows)


def _memory(found: Planned) -> Grid:
    """Of each service, and beside it, where no GPU is here, what it would be on one."""
    here = {need.service: need for need in found.needs}
    there = {need.service: need for need in found.on_gpu} if not found.gpus else {}
    rows = []
    for service in here:
        both = here[service], there.get(service)
        rows.append([service, "", *(_gib(need.bytes if need else None) for need in both)])
        parts = [{part.name: part.bytes for part in need.parts} if need else {} for need in both]
        names = dict.fromkeys([*parts[0], *parts[1]]) if len(parts[0]) > 1 else {}
        rows += [["", name, *(_gib(each.get(name)) for each in parts)] for name in names]
    if not there:
        return Grid("Memory, GiB, at most", plain("service", "of which", "GiB"), [row[:3] for row in rows])
    return Grid("Memory, GiB, at most", plain("service", "of which", "on this CPU", "on a GPU"), rows)


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / _GIB:.2f}"


def _length_line(lengths: Lengths) -> str:
    how = "measured" if lengths.measured else "estimated: no tokenizer is here"
    tokens = f"{lengths.mean:.0f} tokens in the mean, {lengths.longest} at most"
    return f"Prompts: {tokens} ({how}; {lengths.problems} problems)."


def _total_line(found: Planned) -> str:
    if found.gpus:
        return "Students and trainers hold their memory on the GPUs."
    total = total_bytes(found.needs, _models(found.settings)) / _GIB
    return f"All processes on this machine's CPU, weights of one model counted once: {total:.1f} GiB at most."


def _gpu_lines(found: Planned) -> Iterator[str]:
    if not found.gpus:
        yield "No GPU is visible: models run on the CPU."
        return
    each = ", ".join(f"{service} on {','.join(map(str, gpus))}" for service, gpus in found.shares.items())
    yield f"GPUs, of {found.gpus}: {each}."
    yield from (f"Note: {note}." for note in sharing(found.shares))


def _models(settings: RunSettings) -> dict[str, str]:
    """What names the weights of each service: student and trainer map the same files; specialists have their own."""
    names = {
        student: f"specialist-{student}" if section.specialize else section.model
        for student, section in settings.students.items()
    }
    return {f"{kind}-{student}": name for student, name in names.items() for kind in ("student", "trainer")}
