"""The `mcq` format with the naive feedback prompt, for the ablation.

What always holds: only the tutor's prompt and the verdict differ. Nothing asks for a concept, so a feedback of which
anything is left after sanitizing is delivered, with the verdict `unanchored`.
"""

import hashlib

from shared.contracts.messages import ChatMessage
from shared.method import anchoring, reprompt
from shared.problems.judgement import Judgement, removed_by
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
        """A request for feedback without concept and rules, as one user turn."""
        prompt = anchoring.naive_feedback_prompt(
            problem.question, response, peer_domain=peer_domain, agent_domain=agent_domain
        )
        return [ChatMessage(role="user", content=prompt)]

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:  # noqa: ARG002
        """Sanitized and cut; there is nothing to validate."""
        review = anchoring.review_feedback(raw, "")
        verdict = anchoring.FB_NONE if review.body is None else anchoring.UNANCHORED
        return Judgement(verdict, review.body, removed_by(review))
