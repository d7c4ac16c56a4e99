"""What becomes of texts about the generated problems, from the engine that writes them to what a tutee may see.

Verdicts, cleaned texts and grades of these English sentences are what runs are trained on, so they are held as one
sum: a rule for other languages and scripts must not touch them.
"""

import hashlib
import json
from collections.abc import Iterator

from services.broker.exchange.judging import judge
from services.student.engines.port import GenerationRequest
from services.student.engines.scripted import Script, ScriptedEngine
from shared.contracts.messages import ChatMessage, Sampling
from shared.problems.generated import generate
from shared.problems.problem import ProblemSet
from shared.problems.specialising import Knowledge, recipe

VERSION = "a@v0"
SEEDS = (0, 1, 2)
SUM_OF_SETS = "df46228e7e103d62a621a5ab0ad26e857924fb1ecb4aa1c97fc040dcbd097d09"
SUM_OF_OUTCOMES = "24015645d5e2c2de15300156eae9eb026eda35fddc36b9ac225db6581c8ceb68"


def written(problems: ProblemSet) -> Iterator[tuple[str, str, str]]:
    """(problem id, answer, feedback on it) of every problem, as the scripted engine writes them."""
    engine = ScriptedEngine(Script(tuple(problems.all_problems()), bad_feedback_share=0.6))
    engine.load(VERSION, None)
    sampling = Sampling(max_tokens=200, temperature=1.0, top_p=1.0)

    def answered(messages: list[ChatMessage]) -> str:
        request = GenerationRequest(version=VERSION, messages=tuple(messages), sampling=sampling, seed=7)
        return engine.generate([request])[0].text

    form = problems.format
    for problem in problems.all_problems():
        answer = answered(form.messages(problem))
        asked = form.feedback_messages(problem, answer, peer_domain="physics", agent_domain="chemistry")
        yield problem.id, answer, answered(asked)


def outcomes(seed: int) -> Iterator[list[object]]:
    problems = generate(seed)
    form = problems.format
    for name, answer, raw in written(problems):
        problem = problems.by_id(name)
        exchange = judge(raw, problem, form)
        grades = (form.grade(answer, problem.answer), form.grade_lenient(answer, problem.answer))
        told = (exchange.verdict, exchange.delivered, exchange.removed)
        yield [name, *told, form.extract_answer(answer), *grades, form.format_ok(answer)]
    for knowledge in (Knowledge("physics", {"chemistry": 4}), Knowledge("chemistry", {"physics": 1})):
        for example in recipe(knowledge, seed=seed):
            yield [[message.content for message in example.messages], example.completion]


def sum_of(items: Iterator[object]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item).encode() + b"\n")
    return digest.hexdigest()


def test_the_generated_sets_are_what_they_are() -> None:
    assert sum_of(generate(seed).content_hash for seed in range(8)) == SUM_OF_SETS


def test_verdicts_cleaned_texts_and_grades_are_what_runs_were_trained_on() -> None:
    found = [item for seed in SEEDS for item in outcomes(seed)]
    verdicts = {str(item[1]).partition(":")[0] for item in found if len(item) > 2}
    assert verdicts == {"match", "no_match", "all_generic", "no_concept_tag", "fb_none"}
    assert sum_of(iter(found)) == SUM_OF_OUTCOMES
