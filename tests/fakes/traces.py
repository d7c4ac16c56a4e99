"""A trace as a trainer writes it."""

from pathlib import Path

from shared.contracts.traces import Alternative, RolloutTrace, StepTrace, TokenTrace
from tests.unit.inspector.told import RUN


def trace_token(text: str) -> TokenTrace:
    top = (Alternative(text=text, probability=0.9), Alternative(text="<b>", probability=0.1))
    return TokenTrace(
        text=text,
        divergence=0.3,
        weight=1.0,
        student_logprob=-0.1,
        teacher_logprob=-2.0,
        student_top=top,
        teacher_top=top,
        student_entropy=1.25,
    )


def write_trace(run_dir: Path, sample: int = 0, problem_id: str = "p1", **changes: object) -> Path:
    """The trace of one rollout of a's first step."""
    rollout = RolloutTrace(
        problem_id=problem_id, sample=sample, all_tokens=9, tokens=(trace_token("The"), trace_token(" force"))
    )
    fields = {
        "run": RUN,
        "student": "a",
        "step": 1,
        "version": "a@v0",
        "batch_sha256": "0" * 64,
        "share": 0.02,
        "rollouts": (rollout,),
    }
    path = run_dir / "traces" / "a" / "s00001.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(StepTrace.model_validate(fields | changes).model_dump_json())
    return path
