"""What a step's processor does beside a GPU, at the paper's size: python benchmarks/host_work.py [--groups 32]

A synthetic batch of groups of 8 answers of `--tokens` tokens is read, made into rows and cut into passes, and tensors
of an adapter's size are looked at and hashed, each stage by itself, in one process with `--threads`. Wall time, and
processor time of all threads, in which what else the machine does counts for little.
"""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import torch

from services.trainer.step.trees import Row, micro_batches, pack_rows, places_of, tree_tensors
from shared.files.durable import sha256_file
from shared.modeling.adapters import checksum
from shared.modeling.fitting import is_finite

SAMPLES = 8
PROMPT, FEEDBACK = 200, 1024
VOCABULARY = 151_936
PASS_TOKENS = 16_384
ADAPTER_VALUES = 175_000_000
"""Of rank 64 on Qwen3-8B; hashed as a version in bf16, looked at by tensors."""
TENSORS = 504


class Stages:
    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = (time.perf_counter() - wall, time.process_time() - processor)

    def show(self) -> None:
        whole = sum(processor for _, processor in self.seconds.values())
        for name, (wall, processor) in self.seconds.items():
            print(f"{name:38} {wall:7.2f} s, processor {processor:6.2f} s, {100 * processor / whole:5.1f} %")
        print(f"{'all':38} processor {whole:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stages = Stages()
    with tempfile.TemporaryDirectory() as directory:
        rows = read_rows(stages, Path(directory) / "groups.jsonl", arguments.groups, arguments.tokens)
    cut(stages, rows)
    look(stages)
    stages.show()


def read_rows(stages: Stages, file: Path, groups: int, tokens: int) -> list[Row]:
    """From a file as a batch's: token ids and log-probs as JSON."""
    draw = Random(0)
    with file.open("w") as lines:
        for group in range(groups):
            lines.write(json.dumps([written(draw, group, sample, tokens) for sample in range(SAMPLES)]) + "\n")
    with stages.stage("sha256 of the batch"):
        sha256_file(file)
    with stages.stage("reading the batch"), file.open() as lines:
        found = [row for line in lines for row in json.loads(line)]
    with stages.stage("rows"):
        return [
            Row(
                group=row["group"],
                prompt=tuple(row["prompt"]),
                teacher_prompt=tuple(row["teacher_prompt"]),
                response=tuple(row["response"]),
                logprobs=tuple(row["logprobs"]),
                active=all(map(math.isfinite, row["logprobs"])),
            )
            for row in found
        ]


def written(draw: Random, group: int, sample: int, tokens: int) -> dict[str, object]:
    prompt = [group] * PROMPT
    # A self-teacher is shown a solution and the feedback.
    shown = [draw.randrange(VOCABULARY) for _ in range(tokens + FEEDBACK)]
    return {
        "group": group,
        "prompt": prompt,
        "teacher_prompt": [*prompt, *shown],
        "response": [draw.randrange(VOCABULARY) for _ in range(tokens)],
        "logprobs": [-draw.random() for _ in range(tokens)],
        "sample": sample,
    }


def cut(stages: Stages, rows: list[Row]) -> None:
    with stages.stage("trees and packs"):
        packs = pack_rows(rows)
    with stages.stage("micro-batches"):
        parts = micro_batches(packs, PASS_TOKENS)
    with stages.stage("places"):
        for part in parts:
            places_of(part, torch.device("cpu"))
    with stages.stage("tensors of trees"):
        for part in parts:
            tree_tensors([pack.student for pack in part])
            tree_tensors([pack.teacher for pack in part])


def look(stages: Stages) -> None:
    each = ADAPTER_VALUES // TENSORS
    tensors = {f"base_model.model.{n}.lora_A.weight": torch.ones(each, dtype=torch.bfloat16) for n in range(TENSORS)}
    with stages.stage("finite: an adapter's version"):
        assert all(map(is_finite, tensors.values()))
    with stages.stage("every element: an adapter's version"):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    with stages.stage("checksum: an adapter's version"):
        checksum(tensors)
    data = bytes(2 * ADAPTER_VALUES)
    with stages.stage("sha256: as many bytes"):
        hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
