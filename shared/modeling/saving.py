"""Writing a whole model as a directory that any program loads: all of it, or nothing under its name."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from shared.files.durable import sha256_file, storage_errors, sync_directory, sync_file
from shared.modeling.adapters import CONFIG_FILE
from shared.modeling.checksums import file_checksum


def save_model(model: PreTrainedModel, target: Path, sources: Sequence[Path]) -> None:
    """The model with the small files of `sources`, the first one's first, at `target` when it is complete.

    The caller holds a lock on the name. Raises StorageError.
    """
    working = target.parent / f".{target.name}.partial"
    with storage_errors(target, model.get_memory_footprint()):
        shutil.rmtree(working, ignore_errors=True)  # of a process that was killed: no other one writes here
        working.mkdir()
        model.save_pretrained(working)
        for path in (path for source in sources for path in small_files(source)):
            # config.json is that of the model as it is now; the tokenizer and its template come from the sources.
            if not (working / path.name).exists():
                shutil.copyfile(path, working / path.name)
        for path in working.iterdir():
            sync_file(path)
        sync_directory(working)
        working.rename(target)
        sync_directory(target.parent)


def small_files(directory: Path) -> list[Path]:
    """Configuration and tokenizer: all that decides what a whole model does but its weights and where they lie."""
    suffixes = (".json", ".jinja", ".txt", ".model", ".tiktoken")
    files = [path for path in directory.iterdir() if path.suffix in suffixes and path.name != CONFIG_FILE]
    return sorted(path for path in files if not path.name.endswith(".index.json"))


def small_hashes(directory: Path) -> dict[str, str]:
    """sha256 by name of the small files."""
    return {path.name: sha256_file(path) for path in small_files(directory)}


def model_identity(directory: Path) -> dict[str, str]:
    """What decides what a model does: the weights by their tensors, every other file that matters by its bytes."""
    return small_hashes(directory) | {"weights": file_checksum(*sorted(directory.glob("*.safetensors")))}
