"""Sealing the batch of a step: groups with their demonstrations, feedback and teacher prompts, on disk.

A sealed directory is written once. One that exists already (a crash came between the file and the commit)
is verified and adopted, never written again.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import variance
from typing import Protocol

from services.broker.exchange.judging import JudgedFeedback, verdict_word
from shared.contracts.batches import (
    AddedGroup,
    BatchGroup,
    BatchManifest,
    BatchSample,
    BatchSealed,
    PeerSample,
    Taught,
)
from shared.contracts.jobs import PromptOutput
from shared.files.batches import batch_directory, batch_manifest
from shared.files.store import GROUPS, LocalStore
from shared.method.reprompt import loss_mask, pick_demonstrations
from shared.method.sanitizing import strip_thinking
from shared.problems.problem import Problem, ProblemFormat


@dataclass(frozen=True)
class StepHeader:
    """What the manifest says of the step itself. order: problems in the order in which their groups are added up; None
    where the batch is trained on whole."""

    run: str
    student: str
    round: int
    step: int
    phase_start: bool
    base_version: str
    tutor: str | None
    tutor_version: str | None
    template_hash: str
    fence: int = 0
    capabilities: dict[str, float] | None = None
    tutors: dict[str, str] = field(default_factory=dict)
    order: Sequence[str] | None = None


class Rollout(Protocol):
    """A peer's rollout, from its payload or from its batch."""

    @property
    def text(self) -> str: ...

    @property
    def logprobs(self) -> tuple[float, ...]: ...

    @property
    def finish_reason(self) -> str: ...


def build_group(
    problem: Problem,
    rollouts: PromptOutput,
    exchanges: Sequence[JudgedFeedback] | None,
    format_: ProblemFormat,
    *,
    exclude_self: bool,
    policy_gradient: bool = False,
    peer: Sequence[Rollout] = (),
    excluded: Collection[int] = (),
) -> BatchGroup:
    """One problem's group: rewards, the earliest correct rollout as demonstration, feedback, masks (method 2).

    policy_gradient: without a teacher there is no demonstration, and the mask is `advantage_mask` (method 4).
    peer: its rollouts of this problem, for HACPO; the mask is then that of all rewards together.
    excluded: samples whose feedback is withheld; to the self-teacher they are samples without feedback.
    """
    texts = [sample.text for sample in rollouts.samples]
    rewards = [format_.grade(text, problem.answer) for text in texts]
    # Without a teacher nobody is shown anything, so the mask must not follow from demonstrations either.
    demonstrations = [None] * len(texts) if policy_gradient else _shown(texts, rewards, exclude_self=exclude_self)
    told = list(exchanges) if exchanges is not None else [None] * len(texts)
    delivered = [exchange.delivered if exchange else None for exchange in told]
    feedback = [None if index in excluded else text for index, text in enumerate(delivered)]
    foreign = _peer_samples(peer, problem, format_, rewards)
    together = advantage_mask([*rewards, *(sample.reward for sample in foreign)])
    mask = together[: len(rewards)] if policy_gradient else loss_mask(demonstrations, feedback)
    samples = []
    for index, sample in enumerate(rollouts.samples):
        chosen, exchange = demonstrations[index], told[index]
        solution = strip_thinking(texts[chosen]) if chosen is not None else None
        samples.append(
            BatchSample(
                index=index,
                text=sample.text,
                token_ids=sample.token_ids,
                logprobs=sample.logprobs,
                finish_reason=sample.finish_reason,
                reward=rewards[index],
                demonstration=chosen,
                verdict=exchange.verdict if exchange else None,
                feedback_raw=exchange.raw if exchange else None,
                feedback=feedback[index],
                withheld=delivered[index] if index in excluded else None,
                removed=exchange.removed if exchange else (),
                teacher_messages=tuple(format_.teacher_messages(problem, solution=solution, feedback=feedback[index])),
                mask=mask[index],
            )
        )
    return BatchGroup(
        problem_id=problem.id,
        domain=problem.domain,
        kind=problem.kind,
        question=problem.question,
        messages=tuple(format_.messages(problem)),
        prompt_token_ids=rollouts.prompt_token_ids,
        samples=tuple(samples),
        peer_samples=foreign,
    )


def _shown(texts: Sequence[str], rewards: Sequence[float], *, exclude_self: bool) -> list[int | None]:
    """For each rollout the one that its self-teacher is shown."""
    # A right answer that is all thinking shows nothing once its thinking is removed: it demonstrates nothing.
    showable = [reward if strip_thinking(text).strip() else 0.0 for reward, text in zip(rewards, texts, strict=True)]
    return pick_demonstrations(showable, exclude_self=exclude_self)


def _peer_samples(
    peer: Sequence[Rollout], problem: Problem, format_: ProblemFormat, own: Sequence[float]
) -> tuple[PeerSample, ...]:
    """The peer's rollouts with their rewards; the mask is that of all rewards, with the student's `own`."""
    rewards = [format_.grade(rollout.text, problem.answer) for rollout in peer]
    mask = advantage_mask([*own, *rewards])[len(own) :]
    return tuple(
        PeerSample(
            index=index,
            text=rollout.text,
            logprobs=rollout.logprobs,
            finish_reason=rollout.finish_reason,
            reward=rewards[index],
            mask=mask[index],
        )
        for index, rollout in enumerate(peer)
    )


def advantage_mask(rewards: Sequence[float]) -> list[int]:
    """0 for a whole group whose rewards are all equal: no advantage, no gradient. One rollout alone has its reward
    as advantage."""
    differ = any(rewards) if len(rewards) == 1 else min(rewards) != max(rewards)
    return [int(differ)] * len(rewards)


@dataclass(frozen=True)
class Sealed:
    """A batch on disk; sha256 is that of its manifest's bytes."""

    manifest: BatchManifest
    sha256: str

    @property
    def message(self) -> BatchSealed:
        return BatchSealed(
            student=self.manifest.student,
            step=self.manifest.step,
            uri=batch_directory(self.manifest.student, self.manifest.step),
            sha256=self.sha256,
            base_version=self.manifest.base_version,
        )


def added_group(problem_id: str, text: str) -> AddedGroup:
    """A group as a batch's order names it. text: its JSON."""
    return AddedGroup(problem_id=problem_id, sha256=hashlib.sha256(text.encode()).hexdigest())


def write_batch(store: LocalStore, header: StepHeader, groups: Sequence[BatchGroup]) -> Sealed:
    """Write groups and manifest as one directory. Raises StorageError; nothing is left half-written."""
    # Sorted, so that the bytes do not depend on which job came back first.
    ordered = sorted(groups, key=lambda group: group.problem_id)
    texts = [group.model_dump_json() for group in ordered]
    # A group a line, so that a reader holds one of them in memory at a time.
    lines = "".join(text + "\n" for text in texts).encode()
    added = {group.problem_id: added_group(group.problem_id, text) for group, text in zip(ordered, texts, strict=True)}
    samples = [sample for group in ordered for sample in group.samples]
    verdicts = Counter(verdict_word(sample.verdict) for sample in samples if sample.verdict is not None)
    manifest = BatchManifest(
        run=header.run,
        student=header.student,
        round=header.round,
        step=header.step,
        phase_start=header.phase_start,
        base_version=header.base_version,
        tutor=header.tutor,
        tutor_version=header.tutor_version,
        template_hash=header.template_hash,
        groups=len(ordered),
        samples=len(samples),
        active_samples=sum(sample.mask for sample in samples),
        kept_feedback=sum(sample.feedback is not None for sample in samples),
        mean_reward=sum(sample.reward for sample in samples) / len(samples),
        reward_variance=_reward_variance(ordered),
        unique_share=_unique_share(ordered),
        mean_tokens=sum(len(sample.token_ids) for sample in samples) / len(samples),
        verdicts=dict(sorted(verdicts.items())),
        groups_sha256=hashlib.sha256(lines).hexdigest(),
        fence=header.fence,
        capabilities=header.capabilities,
        tutors=header.tutors,
        taught=_taught(ordered),
        order=None if header.order is None else tuple(added[each] for each in header.order),
    )
    directory = batch_directory(header.student, header.step)
    return Sealed(manifest, store.write_directory(directory, {GROUPS: lines}, manifest.model_dump_json().encode()))


def _taught(groups: Sequence[BatchGroup]) -> tuple[Taught, ...]:
    """By tutor and domain; none where there is but one tutor, which stands in no group."""
    said: Counter[tuple[str, str]] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    for group in groups:
        if group.tutor is not None:
            said[group.tutor, group.domain] += len(group.samples)
            kept[group.tutor, group.domain] += sum(sample.feedback is not None for sample in group.samples)
    return tuple(
        Taught(tutor=tutor, domain=domain, feedbacks=count, kept=kept[tutor, domain])
        for (tutor, domain), count in sorted(said.items())
    )


def _reward_variance(groups: Sequence[BatchGroup]) -> float:
    """Rollouts of a group share their problem, so the noise of the mean is that over groups."""
    means = [sum(sample.reward for sample in group.samples) / len(group.samples) for group in groups]
    # One group alone says nothing about the noise: 0.25 is the most that a value between 0 and 1 can vary.
    return variance(means) / len(means) if len(means) > 1 else 0.25


def _unique_share(groups: Sequence[BatchGroup]) -> float | None:
    """The share of distinct texts in groups with a wrong rollout, or None without one.

    Where all are right, being alike is no loss: such groups are left out.
    """
    texts = [[s.text for s in group.samples] for group in groups if any(s.reward < 1.0 for s in group.samples)]
    return sum(len(set(each)) for each in texts) / sum(map(len, texts)) if texts else None


def adopt(store: LocalStore, student: str, step: int, run: str) -> Sealed | None:
    """The batch that lies sealed already, verified; None if there is none.

    Raises StorageError if it is of another run or not what it says.
    """
    directory = batch_directory(student, step)
    if not store.exists(directory):
        return None
    raw = store.read_manifest(directory)
    manifest = batch_manifest(raw, directory, run=run, student=student, step=step)
    # The files, too: a crash or a bad disk may have left a good manifest beside a broken file.
    store.verify(directory, raw)
    return Sealed(manifest, hashlib.sha256(raw).hexdigest())


def is_sealed(store: LocalStore, student: str, step: int) -> bool:
    """Whether the batch lies on disk, which the state may not know yet."""
    return store.exists(batch_directory(student, step))
