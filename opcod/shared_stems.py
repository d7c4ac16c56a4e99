"""Test scores without the problems whose stem, with other options, is in the training problems, too.

They are no leak by the key that the partitions are checked with, yet a student may have learned their subject; so
the report shows the scores with them and without.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from shared.contracts.run import Score, Split
from shared.problems.manifest import ProblemSetManifest
from shared.problems.problem import spread


class StemRow(BaseModel):
    """One student in one domain: mean scores over the `problems` that are left without the `shared` ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: str
    domain: str
    problems: int
    shared: int
    before: float
    after: float


def without_shared_stems(
    scores: Sequence[Score], manifest: ProblemSetManifest | None, test_problems: int | None
) -> list[StemRow]:
    """A row for each student and domain in which such problems were tested; none if the set names none.

    scores: of the whole run. test_problems: the setting, which decides which problems were tested.
    """
    if manifest is None or manifest.provenance is None:
        return []
    shared = set(manifest.provenance.shared_stems)
    rows: list[StemRow] = []
    for student in sorted({score.student for score in scores}):
        tests = [score for score in scores if score.student == student and score.split is Split.TEST]
        if len(tests) < 2:
            continue
        for domain, part in manifest.partitions["test"].domains.items():
            kept = [at for at, name in enumerate(spread(part.ids, test_problems)) if name not in shared]
            tested = len(tests[0].correct[domain])
            if len(kept) in (0, tested):
                continue
            before, after = (_mean(score, domain, kept) for score in (tests[0], tests[-1]))
            rows.append(
                StemRow(
                    student=student,
                    domain=domain,
                    problems=len(kept),
                    shared=tested - len(kept),
                    before=before,
                    after=after,
                )
            )
    return rows


def _mean(score: Score, domain: str, kept: Sequence[int]) -> float:
    return sum(score.correct[domain][at] for at in kept) / (len(kept) * score.samples)
