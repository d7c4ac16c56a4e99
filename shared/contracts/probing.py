"""What a probe asks of a trainer, in files between two processes: how far the loss reaches into some answers."""

from shared.contracts.messages import ChatMessage, Contract


class TaughtAnswer(Contract):
    """A student's answer, and what its self-teacher would be shown of it."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    teacher_messages: tuple[ChatMessage, ...]


class Reach(Contract):
    """Counts over the tokens of an answer. Before training the self-teacher is the student, shown more.

    differing: tokens at which the self-teacher wants another one than the student: their likeliest ones differ.
    unseen: those of them to which the student gives less than `UNSEEN`. pull: summed over the unseen ones, how much
    the loss raises the wanted token's logit (the derivative in it, at most 1 a token).
    """

    tokens: int
    differing: int
    unseen: int
    pull: float


UNSEEN = 0.01
"""Where the self-teacher is sure of such a token, the Jensen-Shannon divergence pulls at it by 0.02, forward KL by
1."""
