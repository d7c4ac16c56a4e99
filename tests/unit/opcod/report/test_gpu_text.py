"""What a run took of its GPUs beside what was planned, from figures as they come of a run of phys-chem's size."""

import re
from dataclasses import replace

import pytest

from opcod.local.gpus import share_out
from opcod.local.usage import CardPeak
from opcod.planning.cards import GIB, CardPlanner
from opcod.planning.shapes import KNOWN_SHAPES
from opcod.planning.work import Lengths, Work
from opcod.report.gpu_text import GpuFigures, faults, grids, to_markdown
from shared.config.loading import load_settings
from shared.contracts.run import RunState, Status, Tally
from shared.contracts.weights import StepRecord
from shared.results.grid import markdown
from shared.results.report import build_report
from tests.fakes.figures import step_metrics
from tests.fakes.final_state import final_state

SETTINGS = load_settings(preset="gpu-check", environ={})
LENGTHS = Lengths(mean=300.0, longest=800, teacher_extra=200, feedback_extra=400, problems=5, measured=True)
SHAPE = KNOWN_SHAPES["Qwen/Qwen3-8B"]
CARDS = CardPlanner(SETTINGS, {"a": SHAPE, "b": SHAPE}, LENGTHS, share_out(SETTINGS, 2), [80 * 10**9] * 2).plan().cards
STARTED = {"starting services": 95.0, "stopping services": 2.0}


def state(status: Status = Status.DONE, failed: str | None = None) -> RunState:
    spent = Tally(
        output_tokens={"rollout": 30_000, "feedback": 9_000},
        engine_seconds={"rollout": 12.5, "feedback": 6.0},
        stage_seconds={"rollout": 20.0, "train": 8.0},
        trainer_seconds={"student": 5.0, "checkpoint": 1.5},
    )
    return final_state(tallies={"a": spent, "b": spent.model_copy()}, status=status, failed=failed)


def peak(number: int, share: float = 0.9, **changes: object) -> CardPeak:
    """Every process took that share of its plan."""
    services = {need.service: round(share * need.bytes) for need in CARDS[number].needs}
    before = 500 * 2**20
    held = CardPeak("NVIDIA H100 80GB HBM3", 80 * 10**9, before, before + sum(services.values()), services)
    return replace(held, **changes)  # type: ignore[arg-type]


def record(student: str, step: int, delta: float) -> StepRecord:
    return StepRecord(
        student=student,
        round=1,
        step=step,
        version=f"{student}@v{step}",
        tutored=True,
        mean_reward=0.5,
        unique_share=1.0,
        metrics=step_metrics(delta_logprob=delta),
    )


def figures(**changes: object) -> GpuFigures:
    ended = state()
    usual = GpuFigures(
        settings=SETTINGS,
        machine={"driver": "driver 580.65 runs CUDA 13.0 at most", "engine a-0": "vLLM 0.33.0, model runner V2"},
        cards=CARDS,
        peaks=[peak(0), peak(1)],
        work=[Work("rollout", 64, 512, 10, 2_097_152), Work("eval (test)", 4, 64, 10, 65_536)],
        state=ended,
        report=build_report(ended, SETTINGS, STARTED, 200.0, {}),
        steps=[record("a", 1, 0.011), record("b", 1, 0.012)],
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def table(measured: GpuFigures, title: str) -> str:
    return "\n".join(markdown(next(grid for grid in grids(measured) if grid.title.startswith(title))))


def test_a_run_within_its_plan_has_no_fault() -> None:
    assert faults(figures()) == []
    page = to_markdown(figures())
    assert page.startswith("# What run ") and "\nAll is within what was planned.\n" in page
    assert "| GPU 0 | NVIDIA H100 80GB HBM3, 74.51 GiB, 0.49 in use before the run |" in page
    assert "| engine a-0 | vLLM 0.33.0, model runner V2 |" in page


def test_each_process_stands_beside_its_plan() -> None:
    engine = next(need for need in CARDS[0].needs if need.service == "student-a")
    row = f"|  | student-a | {engine.bytes / GIB:.2f} | {0.9 * engine.bytes / GIB:.2f} | 90 % |"
    others = peak(0)
    others.services["others"] = GIB
    memory = table(figures(peaks=[others, peak(1)]), "Memory by process")
    assert row in memory and "|  | others | – | 1.00 | – |" in memory
    assert memory.count("| GPU ") == 2 and "trainer-b" in memory


def test_stages_engines_and_drift_are_told() -> None:
    stages, work, drift = (table(figures(), title) for title in ("Seconds", "Work", "Mean |Δ log-prob|"))
    assert "| run | starting services | 95.0 |" in stages
    assert "| steps of a | train | 8.0 |" in stages and "| trainer b | checkpoint | 1.5 |" in stages
    assert "| rollout | 2,097,152 | 60,000 | 25.0 | 2400 |" in work and "| eval | 65,536 | 0 | 0.0 | – |" in work
    assert "| a | 1 | 0.30 | 0.0110 |" in drift


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peaks": [peak(0, 1.1), peak(1)]}, "student-a took .* GiB of GPU 0, planned were .* at most"),
        ({"peaks": [peak(0), peak(1, services={"student-b": 1})]}, "trainer-b was never seen on GPU 1"),
        ({"peaks": [peak(0, services={}), peak(1)]}, "GPU 0: the driver does not tell processes apart"),
        (
            {"peaks": [peak(0, services={}, used=79 * 10**9), peak(1)]},
            "GPU 0: 73.09 GiB were taken, planned were 7",
        ),
        ({"steps": [record("b", 2, 0.31)]}, r"student b differ by 0\.310 nats a token in step 2, at most 0\.3"),
        ({"steps": [record("b", 2, float("nan"))]}, "student b differ by nan"),
        ({"state": state(status=Status.FAILED, failed="out of memory")}, "The run is FAILED: out of memory"),
        (
            {"report": build_report(state(), SETTINGS, STARTED, 200.0, {"trainer-a": 2})},
            "trainer-a ended 2 times and was started again",
        ),
    ],
)
def test_what_is_not_as_planned_has_a_line(changes: dict[str, object], said: str) -> None:
    found = faults(figures(**changes))
    assert [fault for fault in found if re.search(said, fault)], found
    assert all(f"- {fault}." in to_markdown(figures(**changes)) for fault in found)
