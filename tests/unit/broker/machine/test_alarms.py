"""Alarms: raised by what is wrong over several steps, once while it lasts, and not by noise."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from services.broker.machine.machine import new_run
from services.broker.machine.moves import Command
from services.broker.machine.plan import PlannedProblem
from services.broker.machine.watching import look, look_at_scores
from shared.config.alarms import AlarmsSection
from shared.contracts.diagnostics import AlarmWatch, BatchRewards, RewardWindow, StepLook
from shared.contracts.events import AlarmRaised
from shared.contracts.run import AnswerCounts, RunState, Score, Split, Status, StepState
from tests.fakes.figures import batch_rewards, step_metrics
from tests.fakes.world import World, small_plan, told

SETTINGS = AlarmsSection()
HEALTHY = batch_rewards()


class Watched:
    """One student's run of steps; `see` returns the names of the alarms that a step raises."""

    def __init__(self, settings: AlarmsSection = SETTINGS, **plan: object) -> None:
        self.plan = small_plan(alarms=settings, **plan)
        self.state: RunState = new_run(self.plan, incarnation=0, at=0.0)
        self._settings = settings
        self._step = 0

    def see(self, rewards: BatchRewards | None = HEALTHY, **metrics: object) -> list[str]:
        self._step += 1
        self.state.steps["a"] = self._step
        step = StepState(
            step=self._step, base_version=f"a@v{self._step - 1}", groups=[], rewards=rewards, opened_at=0.0, mark=0.0
        )
        return self._told(look(self.state, self._settings, "a", step, step_metrics(**metrics)))

    def validate(
        self,
        physics: Sequence[int],
        chemistry: Sequence[int],
        *,
        split: Split = Split.VALIDATION,
        kept: tuple[int, int] | None = None,
    ) -> list[str]:
        """Score the student on problems of four samples each; returns the names of the alarms that this raises.

        kept: answers in the form that is graded, of each domain.
        """
        domains = ("physics", "chemistry")
        form = {} if kept is None else {d: AnswerCounts(format_ok=n) for d, n in zip(domains, kept, strict=True)}
        score = Score(
            student="a",
            version=f"a@v{self._step}",
            split=split,
            round=self.state.round,
            samples=4,
            correct={"physics": list(physics), "chemistry": list(chemistry)},
            answers=form,
            majority={},
        )
        self.state.scores.append(score)
        return self._told(look_at_scores(self.state, self.plan, [score]))

    def _told(self, commands: Sequence[Command]) -> list[str]:
        raised = told(commands, AlarmRaised)
        assert len(raised) == len(commands)
        return [event.alarm for event in raised]


def test_a_gradient_near_zero_with_a_loss_that_is_not_is_told_after_the_window() -> None:
    run = Watched()
    told = [run.see(loss=0.3, grad_norm=1e-5) for _ in range(7)]
    assert told == [[], [], [], [], ["near_zero_gradient"], [], []]
    alarm = run.state.alarms[0]
    assert (alarm.student, alarm.step, alarm.round) == ("a", 5, 1)
    assert alarm.reason == "gradient norm below 0.0001 with a loss above 0.001 for 5 steps"


def test_steps_in_which_nothing_is_trained_are_told_after_the_window() -> None:
    run = Watched()
    idle: dict[str, Any] = {"loss": 0.0, "grad_norm": 0.0, "active_share": 0.0}
    told = [run.see(**step) for step in [*[idle] * 4, {"active_share": 0.01}, *[idle] * 6]]
    assert [number for number, names in enumerate(told, start=1) if names == ["nothing_trained"]] == [10]
    assert run.state.alarms[0].reason.startswith("nothing of 5 steps could be trained on")


@pytest.mark.parametrize(
    "step", [{"loss": 1e-4, "grad_norm": 1e-5}, {"loss": 0.0, "grad_norm": 0.0}, {"grad_norm": 0.02}]
)
def test_little_left_to_learn_no_update_and_small_gradients_are_no_alarm(step: dict[str, Any]) -> None:
    run = Watched()
    assert [run.see(**step) for _ in range(10)] == [[]] * 10


def test_one_healthy_step_breaks_the_row_and_a_new_row_is_a_new_alarm() -> None:
    run = Watched()
    flat: dict[str, Any] = {"loss": 0.3, "grad_norm": 1e-5}
    told = [run.see(**step) for step in [*[flat] * 4, {}, *[flat] * 5, {}, *[flat] * 5]]
    assert [number for number, names in enumerate(told, start=1) if names] == [10, 16]
    assert run.state.watches["a"].standing == ["near_zero_gradient"]


def test_a_reward_that_falls_far_below_its_best_is_a_collapse() -> None:
    run = Watched()
    for mean in (0.4, 0.5, 0.6, 0.6, 0.6, 0.6):
        assert run.see(batch_rewards(mean)) == []
    told = [run.see(batch_rewards(0.05)) for _ in range(6)]
    assert [name for names in told for name in names] == ["reward_collapse"]
    assert run.state.alarms[0].step == 9, "3 of the 5 steps that are looked at have fallen"
    assert run.state.alarms[0].reason == "mean reward 0.270 over 5 steps, 0.580 at its best"


@pytest.mark.parametrize(
    "fallen",
    [batch_rewards(0.35), batch_rewards(0.05, variance=0.1), None],
    ids=["less than half lost", "within the noise", "not known"],
)
def test_a_smaller_an_uncertain_or_an_unknown_fall_is_none(fallen: BatchRewards | None) -> None:
    run = Watched()
    assert [run.see(batch_rewards(0.6)) for _ in range(6)] == [[]] * 6
    assert [run.see(fallen) for _ in range(6)] == [[]] * 6


def test_wrong_answers_that_are_all_the_same_are_a_collapse() -> None:
    run = Watched()
    told = [run.see(batch_rewards(unique_share=1 / 8)) for _ in range(5)]
    assert told[-1] == ["answer_collapse"]
    assert "12 % of the rollouts" in run.state.alarms[0].reason


@pytest.mark.parametrize("share", [0.3, None])
def test_variety_or_nothing_wrong_is_none(share: float | None) -> None:
    run = Watched()
    assert [run.see(batch_rewards(unique_share=share)) for _ in range(8)] == [[]] * 8


def test_the_watch_stays_small_and_survives_json() -> None:
    run = Watched()
    for _ in range(50):
        run.see(loss=0.3, grad_norm=1e-5)
    assert len(run.state.watches["a"].recent) == SETTINGS.window
    again = RunState.model_validate_json(run.state.model_dump_json())
    assert again.watches == run.state.watches and again.alarms == run.state.alarms


def test_a_student_that_only_varies_raises_no_alarm() -> None:
    """60 runs of 100 steps of 12 problems of very different difficulty, 6 rollouts each; nothing changes."""
    rng = random.Random(3)
    for _ in range(60):
        run = Watched()
        for _ in range(100):
            means = [sum(rng.random() < p for _ in range(6)) / 6 for p in (rng.betavariate(0.5, 1) for _ in range(12))]
            mean = math.fsum(means) / 12
            variance = math.fsum((m - mean) ** 2 for m in means) / 11 / 12
            assert run.see(batch_rewards(mean, variance=variance)) == []


def test_log_probs_that_are_not_the_trainers_are_told_in_the_first_step_and_once() -> None:
    run = Watched()
    drifts = [0.01, 0.31, 1.2, 0.3, 0.09, 0.5]
    assert [run.see(delta_logprob=drift) for drift in drifts] == [[], ["engine_drift"], [], [], [], ["engine_drift"]]
    assert "0.310 nats, above 0.3" in run.state.alarms[0].reason


@pytest.mark.parametrize(
    ("tokens", "said"),
    [(160.0, "answers of 160 tokens over 5 steps, of 100 in the first round"), (60.0, "answers of 60 tokens")],
    ids=["longer", "shorter"],
)
def test_answers_that_became_far_longer_or_shorter_than_in_the_first_round_are_told(tokens: float, said: str) -> None:
    run = Watched()
    assert [run.see(batch_rewards(mean_tokens=each)) for each in (90.0, 110.0, 95.0, 105.0, 100.0)] == [[]] * 5
    run.state.round = 2
    told = [run.see(batch_rewards(mean_tokens=tokens)) for _ in range(7)]
    assert told == [[], [], [], [], ["length_drift"], [], []]
    assert run.state.alarms[0].reason.startswith(said)


def test_a_drift_within_the_bound_in_the_first_round_or_of_an_unknown_length_is_none() -> None:
    run = Watched()
    # What changes within the first round is part of what later ones are compared with.
    for first in (400.0, 100.0, 100.0, 100.0, 100.0):
        assert run.see(batch_rewards(mean_tokens=first)) == []
    run.state.round = 2
    for tokens in (150.0, 110.0, 230.0, None):
        assert [run.see(batch_rewards(mean_tokens=tokens)) for _ in range(6)] == [[]] * 6


def test_lengths_of_a_run_that_began_without_them_are_compared_with_nothing() -> None:
    run = Watched()
    run.see(batch_rewards(mean_tokens=None))
    run.state.round = 2
    assert [run.see(batch_rewards(mean_tokens=5.0)) for _ in range(6)] == [[]] * 6


HALF = [2] * 30
"""Right samples out of four, of 30 problems."""


def memorising(run: Watched, validated: Sequence[int]) -> list[str]:
    """The reward rises from 0.5 to 0.95 over twelve steps."""
    run.validate(HALF, HALF)
    for _ in range(6):
        assert run.see(batch_rewards(0.5)) == []
    for _ in range(6):
        assert run.see(batch_rewards(0.95)) == []
    run.state.round = 2
    return run.validate(validated, validated)


def test_a_training_reward_that_runs_away_from_the_validation_score_is_told() -> None:
    run = Watched()
    assert memorising(run, HALF) == ["validation_gap"]
    assert run.state.alarms[0].reason == (
        "mean reward went from 0.500 in the first 5 steps to 0.950 in the last ones, the validation score from 0.500 "
        "to 0.500"
    )
    assert run.state.alarms[0].step == 12
    assert run.validate(HALF, HALF) == [], "it stands"
    assert run.validate([4] * 30, [4] * 30) == []
    assert run.validate(HALF, HALF) == ["validation_gap"]


def test_what_is_validated_too_is_learnt() -> None:
    assert memorising(Watched(), [3] * 30) == []


def test_a_gap_that_was_there_from_the_start_is_none() -> None:
    run = Watched()
    run.validate(HALF, HALF)
    for _ in range(12):
        run.see(batch_rewards(0.95))
    run.state.round = 2
    assert run.validate(HALF, HALF) == []


@pytest.mark.parametrize("problems", [2, 30])
def test_a_gap_within_the_noise_of_few_problems_is_none(problems: int) -> None:
    """Half of the problems are lost and half won: the mean stays, and says little where they are few."""
    run = Watched()
    before, after = [0, 4] * (problems // 2), [4, 0] * (problems // 2)
    run.validate(before, before)
    for reward in (0.5, 0.95):
        for _ in range(6):
            run.see(batch_rewards(reward))
    run.state.round = 2
    assert run.validate(after, after) == ([] if problems == 2 else ["validation_gap"])


def test_only_validations_after_the_first_window_are_looked_at() -> None:
    run = Watched()
    assert run.validate(HALF, HALF) == []
    for reward in (0.1, 0.95, 0.95, 0.95):
        run.see(batch_rewards(reward))
    assert run.validate(HALF, HALF) == [], "four steps"
    for _ in range(6):
        run.see(batch_rewards(0.95))
    assert run.validate(HALF, HALF, split=Split.TEST) == []


def test_a_domain_weighs_as_much_as_in_training() -> None:
    """Chemistry, of which there is nine times as much, is validated as well as it is trained."""
    pool = tuple(PlannedProblem(f"p{n}", "physics" if n == 0 else "chemistry") for n in range(10))
    for balanced, said in ((False, []), (True, ["validation_gap"])):
        run = Watched(train=pool, balance_domains=balanced)
        run.validate(HALF, HALF)
        for reward in (0.5, 0.99):
            for _ in range(6):
                run.see(batch_rewards(reward))
        run.state.round = 2
        assert run.validate([2] * 30, [4] * 30) == said


def test_answers_without_the_form_that_is_graded_are_told_before_anything_is_trained() -> None:
    run = Watched()
    assert run.validate([0] * 10, [1] + [0] * 9, kept=(0, 3)) == ["answer_form"]
    (alarm,) = run.state.alarms
    assert (alarm.step, alarm.reason[:66]) == (0, "3 of 80 validation answers have the form that is graded, the other")
    assert run.validate([0] * 10, [0] * 10, kept=(0, 3)) == [], "it stands"
    assert run.validate([0] * 10, [0] * 10, kept=(0, 4)) == [], "a twentieth"
    assert run.validate([0] * 10, [0] * 10, kept=(0, 0)) == ["answer_form"]
    assert run.validate([0] * 10, [0] * 10, kept=(40, 40), split=Split.TEST) == []


def test_wrong_answers_in_the_right_form_are_the_student_s() -> None:
    assert Watched().validate([0] * 10, [0] * 10, kept=(0, 40)) == []


def test_a_gap_is_looked_for_at_every_validation_of_a_run() -> None:
    """Rewards that no score of this run, whose students stay as they are, can keep up with."""
    world = World(small_plan(alarms=AlarmsSection(window=1)))
    world.start()
    while world.state.status is not Status.TRAINING:
        world.step()
    rising = StepLook(rewards=batch_rewards(0.9, variance=0.0), flat=False, delta_logprob=0.0)
    world.state.watches["b"] = AlarmWatch(recent=[rising], first=RewardWindow(mean=0.1, variance=0.0))
    while world.state.status is Status.TRAINING:
        world.state.watches["b"].recent = [rising]
        world.step()
    world.finish()
    assert [(alarm.student, alarm.alarm, alarm.round) for alarm in world.state.alarms] == [("b", "validation_gap", 2)]
    assert [event.alarm for event in world.told(AlarmRaised)] == ["validation_gap"]
