"""The script of a job for `sbatch`. Pure.

What always holds: what the script is given stands in it quoted; and a run that the nodes could not hold is refused
before there is one.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from opcod.local.gpus import share_out
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError, shown

NOTICE_S = 180
"""Before the limit: a step that is begun is finished or given up within a minute, and processes have 40 s to end."""

MOST_NOTICE_S = 65535
"""As sbatch's `--signal` takes it."""

# As SLURM reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on.
_TIME = re.compile(r"(\d+-)?\d+(:\d{1,2}){0,2}")
_HOUR_S, _DAY_S = 3600, 86400
_OPTION = re.compile(r"--[a-z][a-z-]*(=[^\s#'\"\\$`]+)?")


@dataclass(frozen=True)
class BatchJob:
    """gpus: of each node. begin: words of `opcod run` with which the run begins, once. options: further ones of
    sbatch, such as `--partition=gpu`."""

    paths: Paths
    settings: RunSettings
    gpus: int
    time: str
    begin: Sequence[str] = ()
    options: Sequence[str] = ()
    notice_s: int = NOTICE_S
    opcod: Sequence[str] = field(default=(sys.executable, "-P", "-m", "opcod.main"))

    def script(self) -> str:
        """Raises ConfigError where sbatch would not take it, or the nodes could not hold the run."""
        self._check()
        environment = Environment(
            loader=PackageLoader("opcod.slurm", "."),
            undefined=StrictUndefined,
            # No HTML, and the last line ends, too.
            autoescape=False,
            keep_trailing_newline=True,
        )
        environment.filters["quoted"] = shlex.quote
        return environment.get_template("job.jinja").render(
            run=self.paths.run,
            nodes=self.settings.resources.nodes,
            gpus=self.gpus,
            time=self.time,
            notice_s=self.notice_s,
            options=self.options,
            opcod=shlex.join(self.opcod),
            runs_dir=shlex.quote(str(self.paths.runs_dir)),
            cache_dir=shlex.quote(str(self.paths.cache_dir)),
            config_file=shlex.quote(str(self.paths.run_dir / "config.toml")),
            begin=[shlex.quote(word) for word in self.begin],
        )

    def _check(self) -> None:
        if not _TIME.fullmatch(self.time):
            raise ConfigError(f"--time: expected a limit as sbatch takes it, such as 24:00:00, got {shown(self.time)}")
        if self.notice_s >= _seconds(self.time):
            raise ConfigError(
                f"--notice: expected less than --time, {self.time}, which is {_seconds(self.time)} s, got "
                f"{self.notice_s} s: the job would be told to end as it begins, and be queued again"
            )
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise ConfigError(f"--sbatch: expected an option such as --partition=gpu, got {shown(option)}")
        for node in range(self.settings.resources.nodes):
            share_out(self.settings, self.gpus, node)


def _seconds(limit: str) -> int:
    """Of a limit that `_TIME` matches."""
    days, dash, rest = limit.rpartition("-")
    fields = [int(field) for field in rest.split(":")]
    # What one or two fields are depends on the days: hours and minutes after them, minutes and seconds without.
    if not dash and len(fields) < 3:
        fields.insert(0, 0)
    hours, minutes, seconds = (*fields, 0, 0)[:3]
    return int(days or 0) * _DAY_S + hours * _HOUR_S + minutes * 60 + seconds
