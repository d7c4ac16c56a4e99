"""An evaluation as a log that `inspect view` opens, through inspect-ai's own API (the optional extra `inspect`).

A sample is one problem, an epoch one of its answers. The first scorer, `strict`, is the score; `lenient`, `form` and
`truncated` stand beside it. What always holds: the log's means by domain are those of the evaluation.
"""

import importlib.util
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from shared.contracts.jobs import PromptOutput, Question, Questions, Sample
from shared.errors import ConfigError
from shared.problems.problem import Problem, ProblemFormat
from shared.results.evaluation import DomainScore, Evaluation

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore

_FIELDS = {"strict": "score", "lenient": "lenient", "form": "format_ok", "truncated": "truncated"}
"""Scorer in the log, and what it is in `DomainScore`."""


def require_inspect() -> None:
    """Raises ConfigError if inspect-ai is not installed."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise ConfigError(
            "--inspect-log: expected inspect-ai to write the log with, it is not installed; "
            "`pip install -c constraints.txt -e '.[inspect]'` in the project's folder brings it"
        )


def write_inspect_log(
    directory: Path,
    result: Evaluation,
    problems: Sequence[Problem],
    questions: Questions,
    outputs: Sequence[PromptOutput],
    format_: ProblemFormat,
) -> Path:
    """The log's file; outputs and questions are of `problems`, in the same order. The same evaluation replaces it."""
    # Here and below: it is an extra, and takes seconds to import.
    from inspect_ai.log import write_eval_log

    directory.mkdir(parents=True, exist_ok=True)
    file = directory / Path(result.evaluated.file_name).with_suffix(".eval").name
    samples = [
        _sample(result, problem, question, answer, epoch, format_)
        for problem, question, output in zip(problems, questions.questions, outputs, strict=True)
        for epoch, answer in enumerate(output.samples, start=1)
    ]
    write_eval_log(_log(result, samples), file)
    return file


def _log(result: Evaluation, samples: "list[EvalSample]") -> "EvalLog":
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec
    from inspect_ai.model import GenerateConfig

    what = result.evaluated
    sampling = what.sampling
    identity = Path(what.file_name).stem
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=identity,
            run_id=identity,
            task_id=identity,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=f"opcod-{what.partition}",
            dataset=EvalDataset(name=what.source, samples=what.problems, sample_ids=[p.id for p in result.problems]),
            model=f"opcod/{what.version}",
            model_generate_config=GenerateConfig(
                temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens, seed=what.seed
            ),
            config=EvalConfig(epochs=what.samples),
            metadata=what.model_dump(mode="json"),
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[_score(name, field, result.domains) for name, field in _FIELDS.items()],
        ),
        samples=samples,
    )


def _score(name: str, field: str, domains: Sequence[DomainScore]) -> "EvalScore":
    from inspect_ai.log import EvalMetric, EvalScore

    metrics = {row.domain: EvalMetric(name=row.domain, value=getattr(row, field)) for row in domains}
    # Only beside the score: what a constant answer would score says nothing about form and length.
    if name == "strict":
        metrics |= {
            f"{row.domain} majority baseline": EvalMetric(name=f"{row.domain} majority baseline", value=row.majority)
            for row in domains
        }
    return EvalScore(name=name, scorer=name, metrics=metrics)


def _sample(
    result: Evaluation,
    problem: Problem,
    question: Question,
    answer: Sample,
    epoch: int,
    format_: ProblemFormat,
) -> "EvalSample":
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ModelOutput,
    )
    from inspect_ai.scorer import Score

    makers = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    prompt = [makers[message.role](content=message.content) for message in question.messages]
    said = ChatMessageAssistant(content=answer.text)
    truncated = answer.finish_reason == "length"
    values = {
        "strict": format_.grade(answer.text, problem.answer),
        "lenient": format_.grade_lenient(answer.text, problem.answer),
        "form": float(format_.format_ok(answer.text)),
        "truncated": float(truncated),
    }
    # What the score was given for, so that a reader sees why a sample failed.
    read = format_.extract_answer(answer.text)
    return EvalSample(
        id=problem.id,
        epoch=epoch,
        input=prompt,
        target=problem.answer,
        messages=[*prompt, said],
        output=ModelOutput(
            model=f"opcod/{result.evaluated.version}",
            choices=[ChatCompletionChoice(message=said, stop_reason="max_tokens" if truncated else "stop")],
        ),
        scores={name: Score(value=value, answer=read) for name, value in values.items()},
        metadata={"domain": problem.domain, "kind": problem.kind},
    )
