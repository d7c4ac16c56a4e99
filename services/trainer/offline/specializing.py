"""Makes a student's specialist: its base model, fine-tuned on its own domain, merged and saved as a whole model.

`python -m services.trainer.offline.specializing --student a --run-dir R --cache-dir C` prints progress, and at its end
{"path", "cached", "seconds"}; with `--examples F` the examples are those of F. `trainer.ranks` ranks make it, or
as `--ranks` says. What always holds: a directory under C/specialists/ is complete, and its name is the hash of
everything that its weights depend on, but for rounding; of two processes after the same one, the second waits.
"""

import argparse
import gc
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from services.trainer.device import set_up
from services.trainer.model.model import StudentModel
from services.trainer.model.trained import TrainedAdapter
from services.trainer.offline.finetuning import Progress, finetune, tokenized
from services.trainer.ranks.group import Alone, Group
from services.trainer.ranks.leading import Command, next_command, told
from shared.config.loading import settings_of
from shared.config.settings import RunSettings
from shared.config.students import StudentSection
from shared.files.durable import locked
from shared.modeling.adapters import LoraSpec, merge_adapter
from shared.modeling.device import device_here
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.resolving import resolve_model
from shared.modeling.saving import model_identity, save_model
from shared.parents import run_service
from shared.problems.examples import examples_for, read_examples
from shared.problems.loading import problems_of
from shared.problems.specialising import Example

RECIPE_VERSION = 2
"""Part of every specialist's identity; raise it when the training itself changes."""

_REPORT_EVERY = 5

Say = Callable[[str], None]
Train = Callable[["Specialist", Say], dict[str, Tensor]]


@dataclass(frozen=True)
class Specialist:
    """What decides a specialist's weights. problems_hash: of the set that the examples are made of, "" for a file."""

    student: str
    base: Path
    section: StudentSection
    settings: RunSettings
    problems_hash: str
    examples: tuple[Example, ...]

    @property
    def lora(self) -> LoraSpec:
        lora = self.settings.lora
        return LoraSpec(lora.rank, lora.scale, lora.first_layer or None, "float32")

    @property
    def key(self) -> str:
        """sha256 (hex) over base model, problems, examples and settings: the name in the cache.

        How batches are cut to fit a device is not in it: like the device, it changes the weights by rounding alone.
        """
        parts = {
            "recipe": RECIPE_VERSION,
            "student": self.student,
            "seed": self.settings.run.seed,
            "base": model_identity(self.base),
            "dtype": self.section.dtype,
            "chat_template": self.section.chat_template,
            "problems": self.problems_hash,
            "examples": [_example_json(each) for each in self.examples],
            "lora": asdict(self.lora),
            # How examples were come by is in them: a specialist is the same whoever brought the file.
            "specialize": self.settings.specialize.model_dump(mode="json", exclude={"source", "sampling"}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Raises ConfigError, ModelError, or UnavailableError for a hub that does not answer."""
    parser = argparse.ArgumentParser(prog="specializing", description="Fine-tune a student on its own domain.")
    parser.add_argument("--student", required=True)
    parser.add_argument("--run-dir", required=True, type=Path)
    parser.add_argument("--cache-dir", required=True, type=Path)
    parser.add_argument("--examples", type=Path, help="A file of right answers of the student's own.")
    parser.add_argument("--ranks", type=int, help="Processes that share the work; default: trainer.ranks.")
    given = parser.parse_args(arguments)
    settings = settings_of(given.run_dir)
    settings.require_student(given.student)
    ranks = given.ranks or settings.trainer.ranks
    if ranks > 1:
        # Not before: one rank needs none of it.
        from services.trainer.ranks.launching import is_rank, launch

        if not is_rank():
            own = sys.argv[1:] if arguments is None else arguments
            return launch("services.trainer.offline.specializing", f"specialize-{given.student}", ranks, own)
    set_up(settings, device_here())
    specialist = describe(settings, given.student, given.cache_dir, given.examples)
    if ranks > 1:
        return _make_as_rank(specialist, given.cache_dir)
    return _make(specialist, given.cache_dir)


def _make(specialist: Specialist, cache_dir: Path, train: Train | None = None) -> int:
    started = time.monotonic()
    path, cached = ensure(specialist, cache_dir, _say, train)
    _say(json.dumps({"path": str(path), "cached": cached, "seconds": round(time.monotonic() - started, 1)}))
    return 0


def _make_as_rank(specialist: Specialist, cache_dir: Path) -> int:
    """Rank 0 looks whether there is one, waits for who makes it, and writes it; the others train with it, if at all."""
    from services.trainer.ranks.processes import Ranks

    ranks = Ranks(device_here(), specialist.settings.trainer.rank_timeout_s)
    if ranks.rank > 0:
        if next_command(ranks.heard).name == "begin":
            _train(specialist, lambda _: None, ranks)
        return 0
    asked = threading.Event()
    threading.Thread(target=ranks.beat, args=(asked,), daemon=True).start()

    def train(specialist: Specialist, say: Say) -> dict[str, Tensor]:
        with told(ranks, Command(name="begin")):
            asked.set()
            return _train(specialist, say, ranks)

    made = _make(specialist, cache_dir, train)
    if not asked.is_set():
        with told(ranks, Command(name="stop")):
            asked.set()
    return made


def describe(settings: RunSettings, student: str, cache_dir: Path, own: Path | None = None) -> Specialist:
    """What the specialist of `student` is to be. own: a file of right answers of its own, in place of what the settings
    name. Raises ConfigError where there are no examples for it."""
    section = settings.students[student]
    examples = examples_for(settings, student) if own is None else read_examples(own, problems_of(settings))
    problems = "" if section.examples or own else problems_of(settings).content_hash
    return Specialist(student, resolve_model(section.model, cache_dir), section, settings, problems, examples)


def ensure(specialist: Specialist, cache_dir: Path, say: Say, train: Train | None = None) -> tuple[Path, bool]:
    """The specialist's directory and whether it was there already; trains it if not. train: by more than this process.

    Raises StorageError, too.
    """
    key = specialist.key
    target = cache_dir / "specialists" / key
    if target.is_dir():
        return target, True
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{key}.lock"):
        if target.is_dir():
            return target, True
        adapter = (train or _train)(specialist, say)
        # The model that was trained refers to itself, and would lie beside this one on the device.
        gc.collect()
        model = load_model(specialist.base, specialist.section.dtype, device_here())
        merge_adapter(model, adapter, specialist.lora)
        save_model(model, target, [specialist.base])
    return target, False


def _train(specialist: Specialist, say: Say, group: Group | None = None) -> dict[str, Tensor]:
    """The tensors of its adapter. group: the ranks that train it together."""
    group = group or Alone()
    section, seed = specialist.section, specialist.settings.run.seed
    tokenizer = load_tokenizer(specialist.base, section.chat_template)
    device = device_here()
    trained = TrainedAdapter(load_model(specialist.base, section.dtype, device), specialist.lora, seed)
    model = StudentModel(trained, recompute=specialist.settings.trainer.recomputes(device))
    rows = tokenized(specialist.examples, tokenizer, model.context_tokens)
    ranks = f", {group.size} ranks" if group.size > 1 else ""
    say(f"student {specialist.student}: {len(rows)} examples, {sum(row.tokens for row in rows)} tokens{ranks}")

    def report(progress: Progress) -> None:
        if progress.update % _REPORT_EVERY == 0 or progress.update == progress.updates:
            say(f"update {progress.update}/{progress.updates}, loss {progress.loss:.3f}")

    # The card of the specialist is its trainer's, and so is what fits there.
    limit = specialist.settings.optimizer.pass_tokens
    finetune(model, rows, specialist.settings.specialize, seed, report, limit_tokens=limit, group=group)
    return model.trained.tensors()


def _example_json(example: Example) -> list[Any]:
    return [[message.model_dump(mode="json") for message in example.messages], example.completion]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_service(main)
