"""The EMA teacher, the optimizer and their state."""

from pathlib import Path

import pytest
import torch

from services.trainer.model.learner import Learner, PhaseStart, adamw, rate_share
from services.trainer.model.offloading import HostedAdamW
from services.trainer.model.teacher import TrustRegionTeacher
from services.trainer.step.trees import pack_rows, places_of
from shared.config.training import OptimizerSection
from shared.errors import StorageError
from shared.modeling.loading import Dtype
from tests.unit.trainer.ground import learner, rows, settings


def give_gradients(one: Learner, value: float = 1e-3) -> None:
    for parameter in one.model.parameters:
        parameter.grad = torch.full_like(parameter, value)


def copies(one: Learner) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in one.model.named_parameters.items()}


def test_the_teacher_starts_as_the_student_and_follows_at_its_rate(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings(ema_rate=0.25))
    start = copies(one)
    assert all(torch.equal(each, start[name]) for name, each in one.teacher.tensors().items())
    expected = start
    for _ in range(3):
        give_gradients(one)
        assert one.update() is not None
        now = copies(one)
        expected = {name: 0.75 * each + 0.25 * now[name] for name, each in expected.items()}
    for name, each in one.teacher.tensors().items():
        torch.testing.assert_close(each, expected[name])
        assert each.dtype == torch.float32


def test_the_teacher_s_pass_leaves_the_student_alone(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings())
    give_gradients(one)
    one.update()
    before = copies(one)
    packs = pack_rows(rows(groups=1))
    places = places_of(packs, torch.device("cpu"))
    trees = [pack.student for pack in packs]
    taught = one.teacher.hidden(trees, places.student)
    assert not taught.requires_grad
    assert all(torch.equal(each, before[name]) for name, each in one.model.named_parameters.items())
    own = one.model.hidden(trees, places.student)
    assert not torch.equal(own, taught)
    one.teacher.reset()
    torch.testing.assert_close(one.teacher.hidden(trees, places.student), own.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(tiny_dir: Path, bad: float) -> None:
    one = learner(tiny_dir, settings())
    give_gradients(one)
    one.update()
    before = one.state()
    give_gradients(one)
    gradient = one.model.parameters[3].grad
    assert gradient is not None
    gradient[0, 0] = bad
    assert one.update() is None
    after = one.state()
    for left, right in zip(
        (before.published, before.teacher, before.optimizer),
        (after.published, after.teacher, after.optimizer),
        strict=True,
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert (after.phase_updates, after.skipped_in_row) == (1, 1)
    assert all(parameter.grad is None for parameter in one.model.parameters)
    give_gradients(one)
    one.update()
    assert one.skipped_in_row == 0


def test_on_a_cpu_torch_chooses_the_optimizer_s_kernel() -> None:
    """Another one rounds otherwise; what it is on a GPU stands in tests/gpu."""
    made = adamw([torch.nn.Parameter(torch.ones(2))], learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    (group,) = made.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.99), 0.1)
    assert group["fused"] is None and group["foreach"] is None


def test_the_first_updates_of_a_phase_are_smaller(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings(warmup_updates=4, learning_rate=0.4, weight_decay=0.0))
    sizes = []
    for _ in range(6):
        before = copies(one)
        give_gradients(one)
        one.update()
        sizes.append(max(float((each - before[name]).abs().max()) for name, each in copies(one).items()))
    assert sizes == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rel=1e-2)
    one.begin_phase()
    assert one.phase_updates == 0
    assert not one.state().optimizer
    assert all(torch.equal(each, copies(one)[name]) for name, each in one.teacher.tensors().items())


def test_a_loaded_state_goes_on_as_the_saved_one(tiny_dir: Path) -> None:
    one, other = learner(tiny_dir, settings(warmup_updates=5)), learner(tiny_dir, settings(warmup_updates=5))
    for value in (1e-3, -2e-3):
        give_gradients(one, value)
        one.update()
    other.load(one.state())
    for each in (one, other):
        give_gradients(each, 5e-3)
        each.update()
    left, right = one.state(), other.state()
    assert left.optimizer.keys() == right.optimizer.keys() != set()
    for mine, theirs in (
        (left.published, right.published),
        (left.teacher, right.teacher),
        (left.optimizer, right.optimizer),
    ):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_moments_on_the_host_make_the_same_updates_bit_for_bit(tiny_dir: Path) -> None:
    plain, hosted = (learner(tiny_dir, settings(offload=each, ema_rate=0.3)) for each in ("none", "moments"))
    for update in range(4):
        for one in (plain, hosted):
            for at, parameter in enumerate(one.model.parameters):
                parameter.grad = torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * (1 + at + update)
            assert one.update(0.5) is not None
        if update == 1:
            # A trainer that is started again reads them from its checkpoint.
            hosted = learner(tiny_dir, settings(offload="moments", ema_rate=0.3))
            hosted.load(plain.state())
        wanted, found = plain.state(), hosted.state()
        for side in ("published", "teacher", "optimizer"):
            one, other = getattr(wanted, side), getattr(found, side)
            assert one.keys() == other.keys() != set()
            assert all(torch.equal(one[name], other[name]) for name in one)
    hosted.begin_phase(optimizer="reset")
    assert hosted.state().optimizer == {}


def test_moments_on_the_host_leave_alone_what_has_no_gradient_and_the_optimizer_whole() -> None:
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = HostedAdamW(parameters, lr=0.1)
    for turn in range(2):
        for parameter in parameters[: 3 - turn]:
            parameter.grad = torch.ones(3)
        optimizer.step()
        optimizer.zero_grad()
    assert [float(optimizer.state[each]["step"]) for each in parameters] == [2, 2, 1]
    assert not torch.equal(parameters[0], parameters[2])
    parameters[1].grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert [each["params"] for each in optimizer.param_groups] == [parameters]


@pytest.mark.parametrize("adapter", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", ["none", "moments"])
def test_a_learner_that_left_its_device_comes_back_as_it_was(tiny_dir: Path, adapter: Dtype, offload: str) -> None:
    stayed, left = (learner(tiny_dir, settings(ema_rate=0.3, offload=offload), adapter=adapter) for _ in range(2))
    for _ in range(3):
        for one in (stayed, left):
            give_gradients(one)
            assert one.update() is not None
        left.move("cpu")
        assert all(each.grad is None for each in left.model.parameters)
        for side in ("published", "exact", "teacher", "optimizer"):
            wanted, found = getattr(stayed.state(), side), getattr(left.state(), side)
            assert wanted.keys() == found.keys()
            assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_teacher_of_another_adapter_is_refused(tiny_dir: Path) -> None:
    with pytest.raises(StorageError, match="other parameters"):
        learner(tiny_dir, settings()).teacher.load({"x": torch.zeros(1)})


def test_a_trust_region_s_hidden_states_lie_between_the_phase_s_start_and_now(tiny_dir: Path) -> None:
    plain = learner(tiny_dir, settings())
    one = Learner(plain.model, settings().optimizer, TrustRegionTeacher(plain.model, 0.25))
    packs = pack_rows(rows(groups=1))
    places = places_of(packs, torch.device("cpu"))
    trees = [pack.teacher for pack in packs]

    def own() -> torch.Tensor:
        with torch.no_grad():
            return one.model.hidden(trees, places.teacher)

    start = own()
    torch.testing.assert_close(one.teacher.hidden(trees, places.teacher), start)
    for _ in range(2):
        give_gradients(one)
        one.update()
    now = own()
    assert not torch.allclose(start, now)
    taught = one.teacher.hidden(trees, places.teacher)
    assert not taught.requires_grad
    torch.testing.assert_close(taught, 0.75 * start + 0.25 * now, atol=1e-4, rtol=1e-4)
    one.begin_phase(optimizer="carry")
    torch.testing.assert_close(one.teacher.hidden(trees, places.teacher), now, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("teacher", ["reset", "carry"])
@pytest.mark.parametrize("optimizer", ["reset", "carry"])
def test_a_phase_resets_teacher_and_optimizer_apart(tiny_dir: Path, teacher: PhaseStart, optimizer: PhaseStart) -> None:
    one = learner(tiny_dir, settings())
    give_gradients(one)
    one.update()
    taught = one.teacher.tensors()
    one.begin_phase(teacher=teacher, optimizer=optimizer)
    expected = copies(one) if teacher == "reset" else taught
    assert all(torch.equal(each, expected[name]) for name, each in one.teacher.tensors().items())
    assert (one.phase_updates, bool(one.state().optimizer)) == ((0, False) if optimizer == "reset" else (1, True))


def test_the_rate_warms_up_and_falls_in_a_straight_line() -> None:
    falling = OptimizerSection(warmup_updates=2, decay_updates=4, decay_to=0.2)
    assert [round(rate_share(falling, updates), 6) for updates in range(8)] == [0.5, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2]
    staying = OptimizerSection(warmup_updates=0)
    assert {rate_share(staying, updates) for updates in range(8)} == {1.0}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_learner_that_is_taken_back_forgets_what_was_added_up(tiny_dir: Path, restarted: bool) -> None:
    one = learner(tiny_dir, settings())
    state = one.state()
    give_gradients(one)
    if restarted:
        one.restart()
    else:
        one.load(state)
    assert all(parameter.grad is None for parameter in one.model.parameters)


def test_the_gradient_is_scaled_before_it_is_cut(tiny_dir: Path) -> None:
    scaled, plain = (learner(tiny_dir, settings(clip_norm=0.5)) for _ in range(2))
    give_gradients(scaled, 8.0)
    give_gradients(plain, 2.0)
    norms = [scaled.update(0.25), plain.update()]
    assert norms[0] == norms[1] is not None
    assert all(torch.equal(each, copies(plain)[name]) for name, each in copies(scaled).items())
