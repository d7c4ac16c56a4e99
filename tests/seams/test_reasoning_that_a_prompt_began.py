"""Hidden reasoning that a chat template begins and the token limit cuts crosses from the engine to the broker as what
it is: nobody's feedback and nobody's demonstration."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine's half of the way needs torch: make setup installs it")

from services.broker.exchange.batches import build_group
from services.broker.exchange.judging import judge
from services.student.engines.port import GenerationRequest
from services.student.engines.tokens import TokenTable
from services.student.engines.transformers import TransformersEngine
from services.student.engines.vllm.requests import Reading
from services.student.engines.vllm.wire import ServerChoice, ServerLogprobs
from services.student.work.generation import prompt_output
from shared.contracts.jobs import PromptOutput
from shared.contracts.messages import ChatMessage, Sampling
from shared.modeling.chat import encode
from shared.modeling.loading import load_tokenizer
from shared.modeling.thinking import AnswerText
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from tests.unit.modeling.tiny_model import write_tiny_model

MCQ = format_named("mcq")
PROBLEM = Problem("p1", "physics", "", "Which force?\n\nA: none\nB: friction\nPlease reason step by step.", "B")
ASKED = GenerationRequest(
    "a@v0", (ChatMessage(role="user", content="Why?"),), Sampling(temperature=1, top_p=1, max_tokens=3), seed=0
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_model(tmp_path_factory.mktemp("thinking"))
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant\n<think>\n"))
    return directory


def said(model_dir: Path, *texts: str) -> PromptOutput:
    """As a student whose vLLM drew these tokens sends it."""
    tokenizer = load_tokenizer(model_dir, None)
    reading = Reading(AnswerText(tokenizer), TokenTable(tokenizer), ASKED)
    drawn = [encode(tokenizer, text) for text in texts]
    logprobs = [ServerLogprobs(token_logprobs=[-1.0] * len(ids)) for ids in drawn]
    choices = [ServerChoice(token_ids=ids, logprobs=each) for ids, each in zip(drawn, logprobs, strict=True)]
    return prompt_output([reading.generation([1], choice) for choice in choices])


def test_a_feedback_that_was_cut_in_its_thoughts_is_none(model_dir: Path) -> None:
    thoughts = "The format is first. So <concept>friction</concept>, as it moves. That is B. I could say"
    cut, whole = said(model_dir, thoughts, f"{thoughts}</think><concept>friction</concept> Check the sign.").samples
    assert judge(cut.text, PROBLEM, MCQ).verdict == "fb_none"
    assert judge(whole.text, PROBLEM, MCQ).delivered == "Check the sign."


def test_a_right_answer_that_was_cut_in_its_thoughts_is_nobodys_demonstration(model_dir: Path) -> None:
    rollouts = said(model_dir, "Let me think: <answer>B</answer>, or", "x", "It moves.</think><answer>B</answer>", "y")
    group = build_group(PROBLEM, rollouts, None, MCQ, exclude_self=True)
    assert [sample.reward for sample in group.samples] == [1.0, 0.0, 1.0, 0.0]
    assert [sample.demonstration for sample in group.samples] == [2, 2, None, 2]
    assert "Let me think" not in str([sample.teacher_messages for sample in group.samples])


def test_both_engines_tell_of_it_where_a_template_began_it(model_dir: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(model_dir, None, "float32", slots=2, threads=1)
    engine.load("a@v0", None)
    (drawn,) = engine.generate([ASKED])
    (gone_on,) = engine.generate([GenerationRequest("a@v0", (), ASKED.sampling, 0, prompt="Why?")])
    engine.close()
    assert (drawn.opened, gone_on.opened) == ("<think>\n", "")
    assert prompt_output([drawn]).samples[0].text == f"<think>\n{drawn.text}"
    plain = write_tiny_model(tmp_path / "plain")
    assert said(plain, "It is B.").samples[0].text == "It is B."
