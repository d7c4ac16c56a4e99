"""The job for SLURM: what it says to sbatch, what it does on each node, and how it ends before its limit."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from opcod.slurm.job import NOTICE_S, BatchJob
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ConfigError
from tests.fakes.command import call_opcod
from tests.fakes.slurm import signal_before_the_limit, write_slurm
from tests.fakes.waiting import WAIT_S, wait_until

# In place of opcod: says what it was asked for; a run ends with 130 once it is told to, as `opcod run` does.
OPCOD = """\
#!/bin/bash
echo "$OPCOD_NODE_RANK $OPCOD_RENDEZVOUS $*" >> "{log}"
trap 'touch "{ending}"; sleep {ends_after_s}; exit {code}' TERM
if [ "$1" = run ]; then touch "{begun}"; for ((i = 0; i < 600; i++)); do sleep 0.1; done; fi
"""


def job(
    tmp_path: Path,
    *overrides: str,
    nodes: int = 2,
    gpus: int = 0,
    time: str = "1:00:00",
    notice_s: int = NOTICE_S,
    options: Sequence[str] = (),
) -> BatchJob:
    settings = load_settings(preset="smoke", overrides=[*overrides, f"resources.nodes={nodes}"], environ={})
    paths = Paths(runs_dir=tmp_path / "the runs", run="pair", cache_dir=tmp_path / "cache")
    begin = ("--preset", "smoke", "--set", "problems.source=a file; rm -rf")
    return BatchJob(paths, settings, gpus, time, begin, options, notice_s, opcod=(str(tmp_path / "opcod"),))


class Batch:
    """The script as a process, as slurmd starts it on the first node."""

    def __init__(self, tmp_path: Path, made: BatchJob, code: int, ends_after_s: int = 0) -> None:
        self.asked = tmp_path / "asked"
        self.begun = tmp_path / "begun"
        self.told = write_slurm(tmp_path / "bin", made.settings.resources.nodes)
        self.ending = tmp_path / "ending"
        opcod = OPCOD.format(log=self.asked, begun=self.begun, ending=self.ending, code=code, ends_after_s=ends_after_s)
        (tmp_path / "opcod").write_text(opcod)
        (tmp_path / "opcod").chmod(0o755)
        script = tmp_path / "job.sbatch"
        script.write_text(made.script())
        self._notice = signal_before_the_limit(script)
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
        self.process = subprocess.Popen(["bash", str(script)], env=environment)

    def near_its_limit(self) -> None:
        self.process.send_signal(self._notice)

    def cancel(self) -> None:
        """As scancel does, whatever the job has asked for."""
        self.process.send_signal(signal.SIGTERM)

    def lines(self) -> list[str]:
        return sorted(self.asked.read_text().splitlines()) if self.asked.exists() else []


def test_the_script_is_one_that_bash_and_sbatch_take(tmp_path: Path) -> None:
    text = job(tmp_path, gpus=4, options=("--partition=gpu",)).script()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=30)
    head = text[: text.index("set -uo")]
    assert head.splitlines()[0] == "#!/bin/bash"
    options = re.findall(r"^#SBATCH (--\S+)$", head, re.MULTILINE)
    assert {"--nodes=2", "--gpus-per-node=4", "--time=1:00:00", "--requeue", "--partition=gpu"} <= set(options)
    assert "--signal=B:USR1@180" in options


def test_a_run_begins_once_goes_on_after_that_and_other_nodes_join(tmp_path: Path) -> None:
    batch = Batch(tmp_path, job(tmp_path), code=0)
    places = f"--runs-dir {tmp_path / 'the runs'} --cache-dir {tmp_path / 'cache'}"
    wait_until(lambda: len(batch.lines()) == 2 and batch.begun.exists(), "both nodes")
    assert batch.lines() == [
        f"0 127.0.0.1 run --run pair --preset smoke --set problems.source=a file; rm -rf {places}",
        f"1 127.0.0.1 join pair {places}",
    ]
    batch.near_its_limit()
    # It was done by then.
    assert batch.process.wait(WAIT_S) == 0
    assert not batch.told.exists()

    (tmp_path / "the runs" / "pair").mkdir(parents=True)
    (tmp_path / "the runs" / "pair" / "config.toml").touch()
    batch.asked.unlink()
    batch.begun.unlink()
    again = Batch(tmp_path, job(tmp_path), code=0)
    wait_until(lambda: len(again.lines()) == 2 and again.begun.exists(), "both nodes")
    assert again.lines()[0] == f"0 127.0.0.1 run --resume pair {places}"
    again.near_its_limit()
    assert again.process.wait(WAIT_S) == 0


def test_a_job_that_is_told_of_its_limit_ends_its_run_and_is_queued_again(tmp_path: Path) -> None:
    batch = Batch(tmp_path, job(tmp_path), code=130)
    wait_until(lambda: len(batch.lines()) == 2 and batch.begun.exists(), "both nodes")
    batch.near_its_limit()
    assert batch.process.wait(WAIT_S) == 130
    assert batch.told.read_text() == "requeue 17\n"


def test_a_job_that_is_cancelled_ends_its_run_and_is_not_queued_again(tmp_path: Path) -> None:
    batch = Batch(tmp_path, job(tmp_path), code=130)
    wait_until(lambda: len(batch.lines()) == 2 and batch.begun.exists(), "both nodes")
    batch.cancel()
    assert batch.process.wait(WAIT_S) == 130
    assert not batch.told.exists()


def test_a_job_that_is_cancelled_while_it_ends_is_not_queued_again(tmp_path: Path) -> None:
    batch = Batch(tmp_path, job(tmp_path), code=130, ends_after_s=2)
    wait_until(lambda: len(batch.lines()) == 2 and batch.begun.exists(), "both nodes")
    batch.near_its_limit()
    wait_until(lambda: batch.ending.exists(), "the run to be told")
    batch.cancel()
    assert batch.process.wait(WAIT_S) == 130
    assert not batch.told.exists()


@pytest.mark.parametrize(
    ("overrides", "given", "said"),
    [
        ((), {"time": "a day"}, r"--time: expected a limit .* got 'a day'"),
        ((), {"time": "2:59"}, r"--notice: expected less than --time, 2:59, which is 179 s, got 180 s"),
        ((), {"time": "0"}, r"--notice: expected less than --time"),
        ((), {"options": ("--wrap=rm -rf /",)}, r"--sbatch: expected an option such as"),
        (("trainer.ranks=2",), {"gpus": 1}, r"trainer-a needs 2 GPUs, this machine has 1"),
        (("resources.placement={ student-a = [0] }",), {}, r"resources\.placement: expected nodes of student-a, stu"),
        ((), {"nodes": 5}, r"nothing is on \[4\]"),
    ],
)
def test_a_job_that_could_not_run_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        job(tmp_path, *overrides, **given).script()


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:30", 5430),
        ("1-2", 93600),
        ("1-2:03", 93780),
        ("1-2:03:04", 93784),
    ],
)
def test_a_limit_is_read_as_sbatch_reads_it(tmp_path: Path, limit: str, seconds: int) -> None:
    assert f"#SBATCH --time={limit}\n" in job(tmp_path, time=limit, notice_s=seconds - 1).script()
    with pytest.raises(ConfigError, match=f"which is {seconds} s"):
        job(tmp_path, time=limit, notice_s=seconds).script()


def test_the_command_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sbatch", "--run", "pair", "--preset", "smoke", "--nodes", "2", "--gpus-per-node", "2")
    assert call_opcod(monkeypatch, *words, "--runs-dir", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "--preset smoke --set resources.nodes=2" in said and said.endswith('exit "$code"\n')
    assert call_opcod(monkeypatch, *words, "--time", "soon") == 2
