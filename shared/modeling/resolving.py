"""From a model's name in the configuration to a directory with all of its weights.

Only safetensors, JSON and what says the licence are ever fetched. A LoRA adapter is a name too: it stands for its base
model with the adapter merged into the weights, once, and cached. A run's own adapter, and the average of adapters that
teaches, start at zero on the merged weights. Beside an adapter that is not zero, a teacher that starts at the base
model would be another model than the student for tens of steps (docs/method.md, deviation 3).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from shared.errors import ModelError, UnavailableError, shown
from shared.files.durable import locked, sha256_file
from shared.hub import MODEL, fetch, kept, knows_all_files, only_a_part
from shared.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter, merge_adapter
from shared.modeling.directory import (
    MODEL_CONFIG,
    checked_directory,
    holds_weights,
    reading,
    refuse_pointers,
    weight_files,
)
from shared.modeling.embedded import EMBEDDED, embedded_directory, ensure_embedded_model
from shared.modeling.loading import Dtype, load_config, load_model
from shared.modeling.plain_lora import read_plain_lora
from shared.modeling.saving import model_identity, save_model, small_hashes

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""`owner/name`."""

TOKENIZER = "tokenizer.json"
"""What it holds is all of a tokenizer."""

# No pickled weights and no code: what is not named here is not fetched.
# A licence in .txt is not: beside a model it would be taken for a file of its tokenizer (saving.small_files).
_NEEDED = ["*.safetensors", "*.json", "*.jinja", "merges.txt"]
_HUB_FILES = [*_NEEDED, "vocab.txt", "*.model", "*.tiktoken", "README.md", "LICENSE", "LICENSE.md"]
_VOCABULARIES = (TOKENIZER, "vocab.*", "*.model", "*.tiktoken")
"""Of which a tokenizer needs one."""


def resolve_model(name: str, cache_dir: Path) -> Path:
    """Return the directory of the model `name`: "embedded", a local directory, or a hub id ("owner/name").

    The embedded model is converted and adapters are merged below `cache_dir` on first use; a hub model goes to the
    hub client's own cache. Raises ModelError where there is no usable model, UnavailableError where the hub does not
    answer.
    """
    if name == EMBEDDED:
        return ensure_embedded_model(cache_dir)
    found = _local(name)
    if found is None:
        _require_hub_id(name)
        found = _download(name)
    if is_adapter(found):
        with _named_base(found) as name:
            base = resolve_model(name, cache_dir)
        return ensure_merged(found, base, cache_dir)
    return checked_directory(found)


def find_model(name: str, cache_dir: Path) -> Path | None:
    """As `resolve_model`, but of what is on this machine already: nothing is made or fetched; None if it is not.

    Raises ModelError where there is no usable model by that name.
    """
    if name == EMBEDDED:
        found = embedded_directory(cache_dir)
        return found if found.is_dir() else None
    local = directory_of(name)
    if local is None:
        return None
    if not is_adapter(local):
        return checked_directory(local)
    with _named_base(local) as name:
        base = find_model(name, cache_dir)
    merged = None if base is None else merged_directory(local, base, cache_dir)
    return merged if merged is not None and merged.is_dir() else None


def directory_of(name: str) -> Path | None:
    """What lies on this machine under a directory's name or a hub id, model or adapter, unchecked; None if nothing
    does, or only a part of what the hub has. Raises ModelError for a name that is neither."""
    local = _local(name)
    if local is not None:
        return local
    _require_hub_id(name)
    return _cached(name)


def is_on_the_hub(name: str) -> bool:
    """Whether a name is that of a hub's model: of no other kind, and nothing on this machine is called so."""
    return name != EMBEDDED and _local(name) is None and HUB_ID.fullmatch(name) is not None


def _local(name: str) -> Path | None:
    """What lies on this machine under a name; None if nothing does, or can. Raises ModelError where nobody may look."""
    try:
        found = Path(name).expanduser().resolve()
        return found if found.exists() else None
    except PermissionError as denied:
        raise ModelError(f"expected a model, cannot look at {shown(name)}: {denied.strerror}") from denied
    except (OSError, ValueError, RuntimeError):  # too long; with NUL; in the home of a user that is none
        return None


def _require_hub_id(name: str) -> None:
    if not HUB_ID.fullmatch(name):
        raise ModelError(f'expected "{EMBEDDED}", a model directory or a hub id (owner/name), got {shown(name)}')


def named_base(adapter: Path) -> str:
    """The base model that an adapter names. Raises ModelError where it names none, itself, or cannot be merged."""
    with reading("an adapter", adapter):
        refuse_pointers(adapter)
    name = base_name(adapter)
    # Or its base would be looked for without end.
    if _local(name) == adapter:
        raise ModelError(f"the adapter in {adapter} names itself as its base model")
    return name


@contextmanager
def _named_base(adapter: Path) -> Iterator[str]:
    """The same for who looks for it now, whose ModelError and UnavailableError say whose base it is."""
    name = named_base(adapter)
    try:
        yield name
    except (ModelError, UnavailableError) as error:
        raised = ModelError if isinstance(error, ModelError) else UnavailableError
        raise raised(
            f"the adapter in {adapter} needs its base model, {shown(name)}: {error}. Where the base lies elsewhere, "
            f"name that as base_model_name_or_path in {adapter / CONFIG_FILE}"
        ) from error


def _download(name: str) -> Path:
    """Or what is cached, where the hub does not answer. Raises as `fetch`, and UnavailableError for a part."""
    try:
        found = fetch(MODEL, name, _HUB_FILES)
    except UnavailableError:
        cached = _cached(name)
        if cached is None:
            raise
        return cached
    if _is_part(found):
        raise only_a_part(MODEL, name)
    return found


def _cached(name: str) -> Path | None:
    """The whole model or adapter in the hub client's cache; None without one."""
    found = kept(MODEL, name, _HUB_FILES)
    if found is None:
        # Whoever fetched it without the notes on it, or the vocabulary once more, has a whole model.
        found = kept(MODEL, name, _NEEDED)
        if found is not None and not (found / TOKENIZER).is_file():
            return None
    return None if found is None or _is_part(found) else found


def _is_part(snapshot: Path) -> bool:
    """Whether files are missing that the hub may have: a download was cut, or fetched some of them only."""
    if knows_all_files(snapshot):
        return False
    if is_adapter(snapshot):
        return not (snapshot / WEIGHTS_FILE).is_file()
    try:
        whole = (snapshot / MODEL_CONFIG).is_file() and bool(weight_files(snapshot))
    except ModelError:
        return True
    return not (whole and any(any(snapshot.glob(name)) for name in _VOCABULARIES))


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a PEFT adapter and no whole model; the base's config.json may lie beside it.

    Raises ModelError where nobody may look into it."""
    with reading("a model or an adapter", directory):
        whole = (directory / MODEL_CONFIG).is_file() and holds_weights(directory)
        return (directory / CONFIG_FILE).is_file() and not whole


def base_name(adapter: Path) -> str:
    """The base model that an adapter names. Raises ModelError where it names none, or cannot be merged into one."""
    name = read_plain_lora(adapter).base_model_name_or_path
    if not name:
        raise ModelError(f"expected base_model_name_or_path in {adapter / CONFIG_FILE}, got {name!r}: name the base")
    return name


def ensure_merged(adapter: Path, base: Path, cache_dir: Path) -> Path:
    """The directory of `base` with `adapter` merged in; made on first use. Raises ModelError where they do not fit.

    The adapter's own tokenizer and chat template, where it has them, take the place of the base's.
    """
    tensors, spec = load_adapter(adapter, brought=True)
    target = merged_directory(adapter, base, cache_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{target.name}.lock"):
        # Asked under the lock: another process may have merged it meanwhile.
        if not target.is_dir():
            model = load_model(base, _dtype(base))
            merge_adapter(model, tensors, spec)
            save_model(model, target, [adapter, base])
    return target


def merged_directory(adapter: Path, base: Path, cache_dir: Path) -> Path:
    """Where the two merged lie, once they are made: named by what both hold. Raises ModelError."""
    try:
        changes = {name: sha256_file(adapter / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    except OSError as missing:
        raise ModelError(f"expected {CONFIG_FILE} and {WEIGHTS_FILE} in {adapter}: {missing}") from missing
    identity = [changes, small_hashes(adapter), model_identity(base)]
    return cache_dir / "merged" / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _dtype(base: Path) -> Dtype:
    """As the base model is saved; half precision becomes bfloat16."""
    return "float32" if load_config(base).dtype == torch.float32 else "bfloat16"
