"""`benchmarks/paper_size.py` in small: it counts what there is, and its clocks see all of a step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paper_size import Processes
from tests.fakes.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

STUDENTS, PROBLEMS, SAMPLES, TOKENS, FEEDBACK_TOKENS = 3, 4, 2, 120, 60

FAILING = """
import threading, time
from benchmarks.paper_size_parts import end_with_any_thread

def fail():
    raise RuntimeError("the engine of replica 7 is gone")

end_with_any_thread()
threading.Thread(target=fail).start()
time.sleep(600)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_it_counts_what_a_step_holds(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # the trainer's consumer needs it
    told = tmp_path / "figures.json"
    sizes = {
        "students": STUDENTS,
        "replicas": 2,
        "problems": PROBLEMS,
        "samples": SAMPLES,
        "tokens": TOKENS,
        "feedback-tokens": FEEDBACK_TOKENS,
        "step-s": 1,
        "idle-s": 1,
        "json": told,
    }
    command = [sys.executable, "-m", "benchmarks.paper_size"]
    command += [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    made = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=200
    )
    assert made.returncode == 0, made.stdout + made.stderr
    figures, names = json.loads(told.read_text()), "abc"[:STUDENTS]
    groups, answers = STUDENTS * PROBLEMS, STUDENTS * PROBLEMS * SAMPLES
    assert (figures["students"], figures["replicas"], figures["steps"]) == (STUDENTS, 2 * STUDENTS, 1)
    counts, times = figures["counts"], {name: each["times"] for name, each in figures["spans"].items()}
    for kind in ("rollout", "feedback"):
        assert times[f"report: JobDone {kind}"] == groups
        tokens = TOKENS if kind == "rollout" else FEEDBACK_TOKENS
        assert sum(counts.get(f"{name} {kind}", 0) for name in names) == answers * tokens
    assert (times["report: JobStarted"], times["report: StepDone"]) == (groups, STUDENTS)
    assert times["file: write_directory"] == STUDENTS and times["file: state.json"] >= 2 * groups
    assert (counts["groups read"], counts["samples read"]) == (groups, answers)
    assert [batch["samples"] for batch in figures["batches"].values()] == [PROBLEMS * SAMPLES] * STUDENTS
    assert all(batch["verdicts"] == {"match": PROBLEMS * SAMPLES} for batch in figures["batches"].values())
    # Of 120 s: all of it was used, none of it by more than the step had.
    assert all(0 < share < figures["seconds"] / 60 for share in figures["shares"].values())
    assert 0 < figures["report_cpu_s"]["p50"] <= figures["report_s"]["p99"] <= figures["report_s"]["max"]
    assert figures["wait_s"]["p50"] > 0 and figures["livez_s"]["p99"] > 0
    assert figures["idle"]["calls_per_s"] > STUDENTS * 2 and figures["redis_commands"]


def test_a_part_whose_thread_failed_ends_the_measurement_with_its_error(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    part = processes.start("-c", FAILING)
    try:
        wait_until(lambda: part.poll() is not None, "the end of the part")
        with pytest.raises(SystemExit, match=r"(?s)ended with 1:.*the engine of replica 7 is gone"):
            processes.check()
    finally:
        processes.end()
