"""Where a server that a student starts puts its sockets, and what a server has to have room for."""

import shutil
import socket
import uuid
from pathlib import Path

import pytest

from services.student.config import StudentConfig
from services.student.engines.vllm.build import build_vllm_engine, model_runner, scratch_directory
from shared.contracts.models import PreparedModel, ServedBy, model_file, served_by, served_by_file
from shared.errors import ConfigError
from tests.fakes.student import config_in
from tests.fakes.vllm import LIMIT, FakeVllm

LONGEST = 50
"""Of a directory for temporary files, in bytes, below which the server's own directory lies."""


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 150], ids=["usual", "too long", "of a batch system"])
def test_sockets_can_be_made_below_any_tmpdir(length: int) -> None:
    root = Path("/tmp") / uuid.uuid4().hex[:8]
    usual = root / ("x" * (length - len(f"{root}/")))
    usual.mkdir(parents=True)
    made = scratch_directory(str(usual))
    try:
        assert made.parent == (usual if length <= LONGEST else Path("/tmp"))
        assert made.stat().st_mode & 0o777 == 0o700
        for name in ("socket", str(uuid.uuid4())):
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(made / name))
    finally:
        shutil.rmtree(made)
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize(
    ("said", "runner"),
    [
        ("INFO 11-29 [gpu_worker.py:120] Using V2 Model Runner\nINFO 11-29 [core.py:9] ready\n", "V2"),
        ("INFO 11-29 [core.py:9] ready\n", "V1"),
        ("WARNING 11-29 [x.py:1] something\n", None),
        (None, None),
    ],
)
def test_the_model_runner_is_what_the_log_of_this_life_says(tmp_path: Path, said: str | None, runner: str) -> None:
    log_file, before = tmp_path / "vllm.log", "INFO 11-28 [gpu_worker.py:120] Using V2 Model Runner\n"
    if said is not None:
        log_file.write_text(before + said)
    assert model_runner(log_file, len(before)) == runner


@pytest.mark.parametrize("answer", ["rollout", "evaluation", "feedback"])
def test_a_found_server_without_room_for_an_answer_is_refused_before_anything_is_asked(
    tmp_path: Path, tiny_dir: Path, answer: str
) -> None:
    fake = FakeVllm(tmp_path / "s")
    fake.start()
    overrides = ("students.a.engine=vllm", f"students.a.vllm.url={fake.url}", "students.a.chat_template=compact")
    try:
        build_vllm_engine(prepared(tmp_path / "fits", tiny_dir, *overrides)).close()
        with pytest.raises(
            ConfigError, match=rf"sequences of {LIMIT} tokens, which {answer}.max_tokens = {LIMIT} leaves"
        ):
            build_vllm_engine(prepared(tmp_path / "run", tiny_dir, *overrides, f"{answer}.max_tokens={LIMIT}"))
    finally:
        fake.stop()


def prepared(run_dir: Path, model: Path, *overrides: str) -> StudentConfig:
    config = config_in(run_dir, *overrides)
    file = model_file(run_dir, "a")
    file.parent.mkdir()
    file.write_text(PreparedModel(path=model, sha256="0" * 64).model_dump_json())
    return config


def test_what_serves_a_run_is_read_from_its_directory(tmp_path: Path) -> None:
    told = ServedBy(version="0.33.0", runner="V2", max_model_len=11264)
    for student, text in (("a", told.model_dump_json()), ("b", "{}")):
        file = served_by_file(tmp_path, student, "0")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert served_by(tmp_path) == {"a-0": told}
    assert told.line == "vLLM 0.33.0, model runner V2, sequences of 11264 tokens"
