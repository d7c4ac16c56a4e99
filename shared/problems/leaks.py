"""The check that no problem of one partition stands in another."""

from collections.abc import Iterable

from shared.errors import ProblemSetError

_MAX_LISTED = 5


def refuse_leaks(name: str, keyed: Iterable[tuple[str, str, str]]) -> None:
    """keyed: (partition, id, leak key) of every problem. Raises ProblemSetError if a key is in two partitions."""
    first: dict[str, tuple[str, str]] = {}
    shared: list[str] = []
    for partition, problem_id, key in keyed:
        where, twin = first.setdefault(key, (partition, problem_id))
        if where != partition:
            shared.append(f"{twin!r} in {where} and {problem_id!r} in {partition}")
    if shared:
        listed = "; ".join(shared[:_MAX_LISTED]) + ("; …" if len(shared) > _MAX_LISTED else "")
        raise ProblemSetError(
            f"{name}: expected partitions without a question in common, got {len(shared)} that differ "
            f"at most in case or punctuation: {listed}. Remove them from one partition"
        )
