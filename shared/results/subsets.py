"""Test scores of some of a domain's problems: those of one kind, and those that resemble no training problem. Pure.

A mean over a domain hides what it is made of: a kind that a student has learned from its peer stands there beside one
that it has lost.

Problems whose stem stands, with other options, in the training problems are no leak by the key that the partitions are
checked with, yet a student may have learned their subject; so the report shows the scores with them and without.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

from shared.contracts.run import Score
from shared.method.metrics import change_interval
from shared.problems.manifest import DomainManifest, ProblemSetManifest
from shared.problems.problem import spread_over_kinds
from shared.results.figures import Interval, Part, first_and_last_test, problem_shares, resampling_seed

KNOWN, UNKNOWN = 0.7, 0.3
"""Right in at least, and at most, this share of its answers a student knows a kind, and does not."""

FEWEST = 5
"""Problems of a kind that is scored by itself: of fewer, resampling says nothing of the noise."""


class KindScore(Part):
    """One student in one kind of a domain's test problems."""

    student: str
    domain: str
    kind: str
    problems: int
    before: float
    after: float
    change_interval: Interval

    @property
    def moved(self) -> bool:
        """Beyond what other problems of the kind would do to the score, in 19 of 20."""
        low, high = self.change_interval
        return low > 0 or high < 0

    @property
    def lost(self) -> bool:
        """The student knew it, and does not any more."""
        return self.moved and self.before >= KNOWN and self.after <= UNKNOWN


class StemRow(Part):
    """One student in one domain: mean scores over the `problems` that are left without the `shared` ones."""

    student: str
    domain: str
    problems: int
    shared: int
    before: float
    after: float


def by_kind(scores: Sequence[Score], manifest: ProblemSetManifest | None, test_problems: int | None) -> list[KindScore]:
    """A row for each student, domain and kind of `FEWEST` or more problems, in their order in the problems; none where
    a domain has one kind alone.

    scores: of the whole run. test_problems: the setting, which decides which problems were tested.
    """
    rows: list[KindScore] = []
    for student, domain, part, tests in _tested(scores, manifest):
        if len(set(part.kind_of_each)) < 2:
            continue
        places: dict[str, list[int]] = {}
        for at, place in enumerate(_places(part, test_problems)):
            places.setdefault(part.kind_of_each[place], []).append(at)
        for kind, kept in places.items():
            # Rows of a file that name no kind are none.
            if len(kept) < FEWEST or not kind:
                continue
            early, late = (_shares(score, domain, kept) for score in tests)
            rows.append(
                KindScore(
                    student=student,
                    domain=domain,
                    kind=kind,
                    problems=len(kept),
                    before=fmean(early),
                    after=fmean(late),
                    change_interval=change_interval(early, late, seed=resampling_seed(student, domain)),
                )
            )
    return rows


def without_shared_stems(
    scores: Sequence[Score], manifest: ProblemSetManifest | None, test_problems: int | None
) -> list[StemRow]:
    """A row for each student and domain in which such problems were tested; none if the set names none.

    scores, test_problems: as of `by_kind`.
    """
    if manifest is None or manifest.provenance is None:
        return []
    shared = set(manifest.provenance.shared_stems)
    rows: list[StemRow] = []
    for student, domain, part, tests in _tested(scores, manifest):
        kept = [at for at, place in enumerate(_places(part, test_problems)) if part.ids[place] not in shared]
        tested = len(tests[0].correct[domain])
        # With none left there is no mean, and with all left the row would repeat the score.
        if len(kept) in (0, tested):
            continue
        before, after = (fmean(_shares(score, domain, kept)) for score in tests)
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


def _tested(
    scores: Sequence[Score], manifest: ProblemSetManifest | None
) -> Iterator[tuple[str, str, DomainManifest, tuple[Score, Score]]]:
    """Each student that was tested twice in each domain, what the domain's test problems are, and the two scores."""
    if manifest is None:
        return
    for student in sorted({score.student for score in scores}):
        tests = first_and_last_test(scores, student)
        if tests is None:
            continue
        for domain, part in manifest.partitions["test"].domains.items():
            yield student, domain, part, tests


def _places(part: DomainManifest, test_problems: int | None) -> list[int]:
    """Which problem each count of a score is of: chosen as for the test, since a score has no ids."""
    return spread_over_kinds(part.kind_of_each or ("",) * part.count, test_problems)


def _shares(score: Score, domain: str, kept: Sequence[int]) -> list[float]:
    shares = problem_shares(score, domain)
    return [shares[at] for at in kept]
