"""Whether all who turn a student's messages into token ids make the same of them: its replicas, and its trainer. Pure.

Otherwise its self-teacher would judge tokens of other prompts than those that were answered.
"""

from collections.abc import Sequence

from shared.contracts.heartbeats import Heartbeat


def disagreement(students: Sequence[str], beats: Sequence[Heartbeat]) -> str | None:
    """Why the run cannot go on, or None. Who has not said what it makes of messages is not asked."""
    for student in students:
        services = (f"student-{student}", f"trainer-{student}")
        known = [beat for beat in beats if beat.service in services and beat.rendering is not None]
        if len({beat.rendering for beat in known}) > 1:
            told = ", ".join(f"{beat.service}/{beat.replica}: {str(beat.rendering)[:8]}" for beat in known)
            return (
                f"expected the same chat template and token ids for student {student} everywhere, got {told}; give its "
                "processes the same model directory, chat_template and package versions, then resume"
            )
    return None
