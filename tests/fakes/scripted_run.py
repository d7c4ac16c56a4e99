"""A broker's run whose students answer with the scripted engine, each with its own script."""

from pathlib import Path

from services.student.engines.port import GenerationRequest
from services.student.engines.scripted import Script, ScriptedEngine
from shared.bus.port import Bus
from shared.contracts.ids import seed_of
from shared.contracts.jobs import Job, Prompt, PromptOutput, Sample
from shared.problems.problem import ProblemSet
from tests.fakes.broker import BrokerBench, FakeStudent

LONG = ("rollout.max_tokens=200", "feedback.max_tokens=200", "evaluation.max_tokens=200")
"""A token of this engine is a byte."""


class ScriptedStudent(FakeStudent):
    """Answers every prompt with its engine, as the job's version."""

    def __init__(self, name: str, bus: Bus, problems: ProblemSet, script: Script) -> None:
        super().__init__(name, bus, problems)
        self._engine = ScriptedEngine(script)

    def _answer(self, job: Job, number: int, prompt: Prompt) -> PromptOutput:
        self._engine.load(job.version, None)
        written = self._engine.generate(
            [
                GenerationRequest(job.version, prompt.messages, job.sampling, seed_of(job.seed, number, index))
                for index in range(prompt.samples)
            ]
        )
        samples = [
            Sample(
                text=each.text,
                token_ids=tuple(each.token_ids),
                logprobs=tuple(each.logprobs),
                finish_reason=each.finish_reason,
            )
            for each in written
        ]
        return PromptOutput(prompt_token_ids=tuple(written[0].prompt_token_ids), samples=tuple(samples))


def scripted_run(run_dir: Path, scripts: dict[str, dict[str, float]], *overrides: str) -> BrokerBench:
    """scripts: by student, fields of its Script."""
    bench = BrokerBench(run_dir, overrides=[*LONG, *overrides])
    problems = tuple(bench.problems.all_problems())
    for name, fields in scripts.items():
        script = Script(problems, **fields)  # type: ignore[arg-type]
        bench.students[name] = ScriptedStudent(name, bench.workers, bench.problems, script)
    return bench
