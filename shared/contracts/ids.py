"""Deterministic names and seeds: the same run makes the same ids, whoever makes them and however often."""

import hashlib


def version_name(student: str, steps: int) -> str:
    """`a@v17`: student a after 17 optimizer steps, counted over the run."""
    return f"{student}@v{steps}"


def version_steps(version: str) -> int:
    """Steps behind a version name. Raises ValueError if it is not one."""
    return parse_version(version)[1]


def parse_version(version: str) -> tuple[str, int]:
    """`a@v17` -> (`a`, 17). Raises ValueError if it is not a version name."""
    student, separator, number = version.partition("@v")
    if not separator or not student or not number.isdecimal():
        raise ValueError(f"expected a version such as a@v17, got {version!r}")
    return student, int(number)


def version_folder(steps: int) -> str:
    """`v000017`: the folder of a published version."""
    return f"v{steps:06d}"


def weights_uri(student: str, steps: int) -> str:
    """`weights/a/v000017`: where a published version lies below the run's directory."""
    return f"weights/{student}/{version_folder(steps)}"


def step_name(step: int) -> str:
    """`s00017`: the folder of a sealed batch."""
    return f"s{step:05d}"


def job_id(
    round_: int, student: str, step: int, problem_id: str, kind: str, attempt: int = 1, by: str | None = None
) -> str:
    """`r2.a.s17.<problem>.rollout`: the tutee's name, also for a job that its tutor does; `.by-c` where that may be one
    of several."""
    tutor = "" if by is None else f".by-{by}"
    again = "" if attempt == 1 else f".t{attempt}"
    return f"r{round_}.{student}.s{step}.{problem_id}.{kind}{tutor}{again}"


def eval_job_id(round_: int, student: str, split: str, chunk: int, attempt: int = 1) -> str:
    """`r2.a.validation.c3`: one chunk of problems of an evaluation."""
    again = "" if attempt == 1 else f".t{attempt}"
    return f"r{round_}.{student}.{split}.c{chunk}{again}"


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any ids; equal parts give equal seeds on every machine."""
    # With a separator that no id has: ("a", "bc") and ("ab", "c") are different seeds.
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    # 63 bits, so that it is a positive number wherever integers have 64 and a sign.
    return int.from_bytes(digest[:8], "big") >> 1
