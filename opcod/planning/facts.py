"""The plan of a run, put together from its settings and from what is on this machine.

What always holds: nothing is written but what the hub client keeps of a data set that is named by hub id; no model is
fetched, converted or loaded; what is missing is collected, so that one look shows all of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from opcod.installed import require_model_packages
from opcod.local.gpus import Shares, gpus_here, require_room, share_out
from opcod.planning.lengths import Count, Lengths, prompt_lengths, prompts_of
from opcod.planning.memory import Need, other_needs, student_need, trainer_need, vllm_need
from opcod.planning.shape import KNOWN_SHAPES, ModelShape, read_shape
from opcod.planning.work import Evaluated, Work, work_of
from shared.config.settings import STUDENTS, Paths, RunSettings
from shared.contracts.messages import ChatMessage
from shared.errors import OpcodError, PromptError
from shared.problems.coverage import uncovered_languages
from shared.problems.evaluation import evaluated_problems
from shared.problems.examples import examples_for
from shared.problems.loading import load_problems
from shared.problems.manifest import ProblemSetManifest, manifest
from shared.problems.problem import ProblemSet
from shared.vllm.installation import find_installation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Planned:
    """missing: why a run of these settings could not begin now. notes: what will be done first, or is assumed."""

    settings: RunSettings
    problems: ProblemSetManifest | None = None
    lengths: Lengths | None = None
    work: list[Work] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    on_gpu: list[Need] = field(default_factory=list)
    gpus: int = 0
    shares: Shares = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_run(paths: Paths, settings: RunSettings) -> Planned:
    """Everything that can be known before a run begins."""
    found = Planned(settings)
    problems: ProblemSet | None = None
    evaluated: Evaluated | None = None
    with _noted(found.missing):
        problems = load_problems(settings)
        found.problems = manifest(problems)
        uncovered = uncovered_languages(problems)
        found.notes += [uncovered] if uncovered is not None else []
        evaluated = evaluated_problems(settings, problems)
    _look_at_specialists(found)
    _look_at_engines(found)
    count: Count | None = None
    shapes: dict[str, ModelShape] = {}
    with _noted(found.missing):
        require_model_packages("a run")
        count, shapes = _look_at_models(found, paths, problems)
    if problems is not None and evaluated is not None:
        found.lengths = prompt_lengths(problems, settings, count)
        found.work = work_of(settings, len(problems.train), evaluated, found.lengths)
        with _noted(found.missing):
            found.gpus = gpus_here()
            found.shares = share_out(settings, found.gpus)
            require_room(settings, found.shares)
        found.on_gpu = _needs(found, shapes, found.lengths, gpu=True)
        found.needs = [*_needs(found, shapes, found.lengths, gpu=found.gpus > 0), *(other_needs() if shapes else ())]
    return found


def _look_at_specialists(found: Planned) -> None:
    for student in STUDENTS:
        if found.settings.students[student].specialize:
            with _noted(found.missing):
                count = len(examples_for(found.settings, student))
                found.notes.append(f"student {student} is fine-tuned first, on {count} examples, unless it is cached")


def _look_at_engines(found: Planned) -> None:
    for student in STUDENTS:
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
    from shared.modeling.loading import check_model, load_tokenizer
    from shared.modeling.resolving import find_model

    count: Count | None = None
    shapes: dict[str, ModelShape] = {}
    for student in STUDENTS:
        section = found.settings.students[student]
        if section.engine == "scripted":
            continue
        with _noted(found.missing):
            directory = find_model(section.model, paths.cache_dir)
            if directory is None:
                shape = KNOWN_SHAPES.get(section.model)
                found.notes.append(f"student {student}: {section.model} is not on this machine and is fetched first")
            else:
                check_model(directory)
                tokenizer = load_tokenizer(directory, section.chat_template)
                counted = partial(_count, tokenizer)
                if _takes_prompts(found, student, problems, counted):
                    count = count or counted
                shape = read_shape(directory)
            if shape is None:
                found.notes.append(
                    f"student {student}: the sizes of {section.model} are not known, so neither its memory"
                )
            else:
                shapes[student] = shape
    return count, shapes


def _count(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[ChatMessage]) -> int:
    from shared.modeling.chat import render

    return len(render(tokenizer, messages))


def _takes_prompts(found: Planned, student: str, problems: ProblemSet | None, count: Count) -> bool:
    """Whether the student's chat template takes every kind of prompt of a run; what it does not take is noted."""
    if problems is None:
        return True
    try:
        for messages in prompts_of(next(iter(problems.all_problems())), problems, found.settings):
            count(messages)
    except PromptError as error:
        found.missing.append(
            f"student {student}: {error}; set students.{student}.chat_template to one that takes them, such as "
            '"compact", or choose another model'
        )
        return False
    return True


def _needs(found: Planned, shapes: dict[str, ModelShape], lengths: Lengths, *, gpu: bool) -> list[Need]:
    settings = found.settings
    students = [
        (vllm_need if settings.students[name].engine == "vllm" else student_need)(
            name, settings, shape, lengths, gpu=gpu
        )
        for name, shape in shapes.items()
    ]
    return students + [trainer_need(name, settings, shape, lengths, gpu=gpu) for name, shape in shapes.items()]


@contextmanager
def _noted(missing: list[str]) -> Iterator[None]:
    """Errors that name what the user has to do are noted instead of raised."""
    try:
        yield
    except OpcodError as error:
        if str(error) not in missing:
            missing.append(str(error))
