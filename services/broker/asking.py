"""Asking the peers: one answers, the other gives feedback, the first answers again with what was let through."""

from services.broker.peers import Peers
from services.broker.tutoring import judge
from shared.config.settings import RunSettings
from shared.contracts.http import AskRequest, AskResponse, ChatRequest, ChatResponse, FeedbackRequest
from shared.contracts.messages import ChatMessage
from shared.problems.formats import ProblemFormat
from shared.problems.problem import Problem


def ask(request: AskRequest, peers: Peers, settings: RunSettings, format_: ProblemFormat) -> AskResponse:
    """The same prompts, verdicts and sanitizing as in training. Raises UnavailableError if a student is down."""
    first = peers.require(request.first or sorted(settings.students)[0])
    tutor = settings.peer_of(first)
    problem = Problem(id="asked", domain="", kind="", question=request.problem, answer="")
    answered = _chat(peers, settings, first, format_.messages(problem), request.seed)
    answer = answered.choices[0].message.content
    told = peers.feedback(tutor, FeedbackRequest(problem=request.problem, response=answer, seed=request.seed))
    exchange = judge(told.raw, problem, format_)
    revised = None
    if exchange.delivered is not None:
        messages = format_.teacher_messages(problem, solution=None, feedback=exchange.delivered)
        again = _chat(peers, settings, first, messages, request.seed)
        revised = again.choices[0].message.content
    return AskResponse(
        problem=request.problem,
        first=first,
        first_version=answered.model,
        answer=answer,
        tutor=tutor,
        tutor_version=told.version,
        feedback_raw=told.raw,
        concept=told.concept,
        verdict=exchange.verdict,
        feedback=exchange.delivered,
        revised=revised,
    )


def _chat(
    peers: Peers, settings: RunSettings, student: str, messages: list[ChatMessage], seed: int | None
) -> ChatResponse:
    sampling = settings.evaluation.sampling
    request = ChatRequest(
        model=student,
        messages=tuple(messages),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed,
    )
    return peers.chat(student, request)
