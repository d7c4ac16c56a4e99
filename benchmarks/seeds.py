"""Initial and final test scores over seeds: python benchmarks/seeds.py --runs-dir /tmp/runs --seeds 0 1 2

Runs that are there already are read, not run again; a run that stopped is resumed.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from opcod.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--name", default="seed", help="runs are called <name>-<seed>")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    reports = [run(arguments, seed) for seed in arguments.seeds]
    print_table(reports)
    return 0


def run(arguments: argparse.Namespace, seed: int) -> Report:
    name = f"{arguments.name}-{seed}"
    directory = arguments.runs_dir / name
    report = directory / "report" / "report.json"
    if not report.exists() or not Report.model_validate_json(report.read_text()).finished:
        command = [sys.executable, "-m", "opcod.main", "run", "--runs-dir", str(arguments.runs_dir)]
        if (directory / "config.toml").exists():
            command += ["--resume", name]
        else:
            command += ["--run", name, "--preset", arguments.preset, "--set", f"run.seed={seed}"]
            command += [part for override in arguments.overrides for part in ("--set", override)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return Report.model_validate_json(report.read_text())


def print_table(reports: list[Report]) -> None:
    cells = [(row.student, row.domain) for row in reports[0].scores]
    header = ["seed", "when", *(f"{student} {domain}" for student, domain in cells), "mutual", "seconds"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for report in reports:
        before = [f"{100 * row.before:.1f}" for row in report.scores]
        after = [f"{100 * row.after:.1f} ({100 * row.change:+.1f})" for row in report.scores]
        print("| " + " | ".join([str(report.seed), "initial", *before, "", ""]) + " |")
        mutual = "yes" if report.mutual_improvement else "no"
        print("| " + " | ".join([str(report.seed), "final", *after, mutual, f"{report.wall_s:.0f}"]) + " |")


if __name__ == "__main__":
    sys.exit(main())
