"""A model's directory before anything in it is loaded: which files are the model, and what is refused by them alone.

Only JSON and names are read here; needs no torch.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import MAX_SHOWN_CHARS, ModelError, OpcodError, reason
from shared.files.store import patiently
from shared.files.text import FETCH_LFS, is_lfs_pointer

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LARGE = (".safetensors", ".json", ".model", ".tiktoken", ".txt")
"""Files that Git LFS may keep."""

MAX_NAME_CHARS = 200
"""Of a tensor or a module: more than any has."""

_REFUSED_FIELDS = {
    "quantization_config": "weights are trained and merged as they are: choose the model's unquantised weights",
    "transformers_weights": f"weights are read from {SINGLE_FILE} or the files of {INDEX_FILE}: remove the field",
}


def checked_directory(path: Path) -> Path:
    """Refuse what is not a directory with a whole model as safetensors: pickled weights run code when loaded."""
    with reading("a model", path):
        if not path.is_dir():
            raise ModelError(f"expected a model directory, found a file: {path}; name the directory that holds it")
        if not (path / MODEL_CONFIG).is_file():
            raise ModelError(f"expected a {MODEL_CONFIG} in {path}, found {_listing(path)}")
        if not any(path.glob("*.safetensors")):
            raise ModelError(
                f"expected *.safetensors in {path}, found {_listing(path)}; .bin and .pt files are not loaded because "
                "they can run code: convert them with save_pretrained(..., safe_serialization=True)"
            )
        refuse_pointers(path)
        if (path / ADAPTER_CONFIG).is_file():
            raise ModelError(
                f"expected a model or an adapter in {path}, found both {MODEL_CONFIG} with weights and "
                f"{ADAPTER_CONFIG}: keep either in a directory of its own"
            )
    return path


def refuse_pointers(path: Path) -> None:
    """Raises ModelError where a clone has not fetched its large files. Raises OSError."""
    for file in sorted(path.iterdir()):
        if file.suffix in _LARGE and file.is_file() and is_lfs_pointer(file):
            raise ModelError(f"expected the content of {file}, {FETCH_LFS}")


def holds_weights(path: Path) -> bool:
    """Whether a whole model's weights lie there, in one file or in several."""
    return (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file()


def weight_files(path: Path) -> list[Path]:
    """The files that the weights of a model are read from, sorted. Raises ModelError."""
    if (path / SINGLE_FILE).is_file():
        return [path / SINGLE_FILE]
    if not (path / INDEX_FILE).is_file():
        raise ModelError(f"expected {SINGLE_FILE} or {INDEX_FILE} in {path}, found {_listing(path)}")
    places = read_object(path / INDEX_FILE).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"expected weight_map of names to files in {path / INDEX_FILE}, got {shown_json(places)}")
    named = sorted(set(places.values()))
    # An index may name anything: no foreign name is ever looked up.
    there = {file.name for file in path.iterdir() if file.is_file()}
    missing = [name for name in named if name not in there]
    if missing:
        raise ModelError(f"expected in {path} the files that {INDEX_FILE} names, found no {few(missing)}")
    return [path / name for name in named]


def read_model_config(path: Path) -> dict[str, Any]:
    """The config.json of a model whose weights can be trained and merged. Raises ModelError."""
    config = read_object(path / MODEL_CONFIG)
    for field, advice in _REFUSED_FIELDS.items():
        if config.get(field):
            raise ModelError(f"{path / MODEL_CONFIG}: expected no {field}, got {shown_json(config[field])}; {advice}")
    return config


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelError."""
    try:
        found = json.loads(patiently(lambda: file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as broken:
        raise ModelError(f"expected a JSON object in {file}: {reason(broken)}") from broken
    if not isinstance(found, dict):
        raise ModelError(f"expected a JSON object in {file}, got {shown_json(found)}")
    return found


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Whatever a library raises meanwhile is a ModelError: `what` could not be loaded from `path`."""
    try:
        yield
    except OpcodError:
        raise
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself, damaged files lead to any other
        broken = error
    else:
        return
    raise ModelError(f"expected {what} in {path}, could not load it: {reason(broken)}") from broken


def few(names: list[str]) -> str:
    """The first three of them, each cut, and how many more there are."""
    return ", ".join(name[:MAX_NAME_CHARS] for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def shown_json(value: object) -> str:
    """A value out of a JSON file as it stands there, cut."""
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def _listing(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"
