"""Alarms: raised by what is wrong over several steps, once while it lasts, and not by noise."""

import math
import random
from typing import Any

import pytest

from services.broker.machine.machine import new_run
from services.broker.machine.watching import look
from shared.config.alarms import AlarmsSection
from shared.contracts.diagnostics import BatchRewards
from shared.contracts.events import AlarmRaised
from shared.contracts.run import RunState, StepState
from tests.fakes.figures import batch_rewards, step_metrics
from tests.fakes.world import small_plan, told

SETTINGS = AlarmsSection()
HEALTHY = batch_rewards()


class Watched:
    """One student's run of steps; `see` returns the names of the alarms that a step raises."""

    def __init__(self, settings: AlarmsSection = SETTINGS) -> None:
        self.state: RunState = new_run(small_plan(), incarnation=0, at=0.0)
        self._settings = settings
        self._step = 0

    def see(self, rewards: BatchRewards | None = HEALTHY, **metrics: object) -> list[str]:
        self._step += 1
        step = StepState(
            step=self._step, base_version=f"a@v{self._step - 1}", groups=[], rewards=rewards, opened_at=0.0, mark=0.0
        )
        commands = look(self.state, self._settings, "a", step, step_metrics(**metrics))
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
