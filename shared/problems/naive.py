"""The `mcq` format with the naive feedback prompt, for the ablation.

What always holds: only the tutor's prompt and the verdict differ from `mcq`; feedback is sanitized all the same.
"""

import hashlib

from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError
from shared.method import anchoring, reprompt
from shared.problems.formats import ProblemFormat
from shared.problems.mcq import McqFormat
from shared.problems.problem import Problem


class NaiveMcqFormat(McqFormat):
    """`McqFormat` without anchoring."""

    template_hash = hashlib.sha256(
        f"{reprompt.TEMPLATE_HASH}{anchoring.NAIVE_FEEDBACK_TEMPLATE_HASH}".encode()
    ).hexdigest()

    def feedback_messages(
        self, problem: Problem, response: str, *, peer_domain: str, agent_domain: str
    ) -> list[ChatMessage]:
        """A plain request for feedback as one user turn."""
        prompt = anchoring.naive_feedback_prompt(
            problem.question, response, peer_domain=peer_domain, agent_domain=agent_domain
        )
        return [ChatMessage(role="user", content=prompt)]

    def process_feedback(self, raw: str | None, problem: Problem) -> tuple[str, str | None]:  # noqa: ARG002
        """See `anchoring.process_unanchored`."""
        return anchoring.process_unanchored(raw)


def with_prompt(format_: ProblemFormat, prompt: str) -> ProblemFormat:
    """The format as it asks for feedback with `feedback.prompt`. Raises ConfigError if it has no such prompt."""
    if prompt == "anchored":
        return format_
    if format_.name == McqFormat.name:
        return NaiveMcqFormat()
    raise ConfigError(f"expected the format mcq for the {prompt} feedback prompt, got {format_.name}")
