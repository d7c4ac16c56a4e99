"""Where settings come from, later ones winning: preset, --config file, OPCOD_* environment, --set.

A preset or file may begin with `extends = "<preset>"`: it then holds only what differs from that one.
A run keeps what it was started with in `config.toml`, and in `planned.toml` what the settings that were left to the
launcher come to on its machine; services are started with these two files alone.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from shared.config.section import LOOKED_AT
from shared.config.settings import RunSettings
from shared.config.students import StudentSection
from shared.errors import MAX_SHOWN_CHARS, ConfigError, reason, shown
from shared.files.text import expanded, is_plain, read_text

PRESETS = Path(__file__).resolve().parents[2] / "presets"
EXTENDS = "extends"
ENV_PREFIX = "OPCOD_SET_"
ENV_RANKS = "OPCOD_RANKS"

CONFIG_FILE = "config.toml"
PLANNED_FILE = "planned.toml"

Tree = dict[str, Any]

_NO_TOML = (ValueError, RecursionError)
"""Of what tomllib raises TOMLDecodeError is one; long numbers and deep nests are others."""

_PLAIN_TEXT = "expected text in UTF-8 without NUL"

_MAX_FAULTS = 8
"""That are told at once."""


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_settings(
    *,
    preset: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> RunSettings:
    """Settings from all sources. Raises ConfigError naming key, expectation and value.

    overrides: `section.key=value`, value as TOML or, failing that, as a plain string.
    environ: `OPCOD_SET_SECTION__KEY=value` says the same as an override, `OPCOD_RANKS` as `trainer.ranks`.
    """
    tree: Tree = _preset_tree(preset) if preset else {}
    if config:
        own = read_toml(config)
        if preset and EXTENDS in own:
            raise ConfigError(
                f"{config}: {EXTENDS} = {shown(own[EXTENDS])} names a preset, and so does --preset; leave one"
            )
        _merge(tree, _extended(own, config))
    # Sorted, so that the order of the environment decides nothing.
    variables = [(name, value) for name, value in sorted(environ.items()) if name.startswith(ENV_PREFIX)]
    # In the order in which they win: a later one replaces an earlier one.
    if environ.get(ENV_RANKS):
        _apply(tree, f"trainer.ranks={environ[ENV_RANKS]}")
    for name, value in variables:
        _apply(tree, f"{_named_by(name)}={value}", name)
    for override in overrides:
        _apply(tree, override)
    return validate(tree)


def validate(tree: Tree, *, begins: bool = True) -> RunSettings:
    """begins: whether something is to be started with them; of a run that is only looked at less is refused.

    Raises ConfigError listing bad keys with what was expected.
    """
    try:
        found = RunSettings.model_validate(tree, context=None if begins else LOOKED_AT)
    except ValidationError as error:
        faults = error.errors()
        more = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
        raise ConfigError("\n".join([*map(_explain, faults[:_MAX_FAULTS]), *more])) from error
    _refuse_unwritable(found)
    return found


def settings_of(run_dir: Path, *, begins: bool = True) -> RunSettings:
    """What a run's services go by: what it was started with, and what was planned for its machine. begins: as in
    `validate`.

    Raises ConfigError.
    """
    tree = read_toml(run_dir / CONFIG_FILE)
    if (run_dir / PLANNED_FILE).exists():
        _merge(tree, read_toml(run_dir / PLANNED_FILE))
    return validate(tree, begins=begins)


def asked_settings(run_dir: Path, *, begins: bool = True) -> RunSettings:
    """What a run was started with. begins: as in `validate`. Raises ConfigError."""
    return validate(read_toml(run_dir / CONFIG_FILE), begins=begins)


def read_toml(path: Path) -> Tree:
    if not (path := expanded(path)).exists():
        raise ConfigError(f"expected a TOML file at {path}; there is none")
    try:
        return tomllib.loads(read_text(path, "settings"))
    except _NO_TOML as error:
        raise ConfigError(f"cannot read {path} as TOML: {reason(error)}") from error


def to_toml(settings: RunSettings) -> str:
    """All settings as TOML; reading it back gives equal settings (absent = none)."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def differences(before: RunSettings, after: RunSettings) -> list[str]:
    """`section.key: old -> new` for every setting that differs."""
    left, right = flattened(before.model_dump(mode="json")), flattened(after.model_dump(mode="json"))
    return [
        f"{key}: {left.get(key)!r} -> {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _refuse_unwritable(settings: RunSettings) -> None:
    """Raises ConfigError: a run keeps its settings in a file, and gives them to other programs."""
    for name, value in flattened(settings.model_dump()).items():
        texts = (name, *(value if isinstance(value, tuple) else (value,)))
        if not all(is_plain(text) for text in texts if isinstance(text, str)):
            raise ConfigError(f"{name[:MAX_SHOWN_CHARS]}: {_PLAIN_TEXT}, got {shown(value)}")


def _preset_tree(preset: str) -> Tree:
    names = preset_names()
    if preset not in names:
        raise ConfigError(f"unknown preset {shown(preset)}{nearest(preset, names)}; there are: {', '.join(names)}")
    path = PRESETS / f"{preset}.toml"
    return _extended(read_toml(path), path)


def _extended(tree: Tree, path: Path) -> Tree:
    """The tree on top of the preset that it extends, if any."""
    # Taken out: it is a word of files, and validation would refuse it as a setting.
    base = tree.pop(EXTENDS, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: {EXTENDS}: expected the name of a preset, got {shown(base)}")
    below = _preset_tree(base)
    _merge(below, tree)
    return below


def _merge(tree: Tree, other: Tree) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _named_by(variable: str) -> str:
    """The setting that a variable names, in small letters but for the name of a vLLM server's own variable."""
    parts = variable.removeprefix(ENV_PREFIX).split("__")
    known = [part.lower() for part in parts]
    if known[:1] == ["students"] and known[2:4] == ["vllm", "environment"] and len(parts) > 4:
        # It may hold `__` itself.
        return ".".join([*known[:4], "__".join(parts[4:])])
    return ".".join(known)


def _apply(tree: Tree, override: str, variable: str | None = None) -> None:
    """variable: of the environment, if that says it."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if variable is not None and (not all(keys) or len(keys) < 2):
        raise ConfigError(
            f"{variable}: expected {ENV_PREFIX}SECTION__KEY, with two underscores between a section and its key, as "
            f"{ENV_PREFIX}RUN__SEED"
        )
    if not separator or not all(keys) or len(keys) < 2:
        came = f"the key {shown(path.strip())}" if separator else "no `=` in it"
        raise ConfigError(f"--set: expected section.key=value, got {came}")  # the value may be a secret
    for key in keys[:-1]:
        # A section that no file has is begun here; whether there is such a one is for validation to say.
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{path[:MAX_SHOWN_CHARS]}: {shown(key)} is a value, not a section")
    if not text.strip():
        raise ConfigError(
            f"{path.strip()[:MAX_SHOWN_CHARS]}: expected a value, got an empty one; a setting that may have none "
            "takes `none`"
        )
    tree[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _NO_TOML:
        return text


def _explain(error: Any) -> str:
    path = [str(part)[:MAX_SHOWN_CHARS] for part in error["loc"]]
    name = ".".join(path) or "settings"
    if error["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        return f"unknown key {name}{nearest(path[-1], known)}; there are: {', '.join(known)}"
    if error["type"] in ("model_type", "dict_type"):
        known = _fields_at(path)
        wanted = f"a section with the keys {', '.join(known)}" if known else "a table of names and values"
        return f"{name}: expected {wanted}, got {shown(error['input'])}"
    # Pydantic's own messages in the words of ours.
    message = str(error["msg"]).removeprefix("Value error, ").replace("String should have", "expected")
    if error["type"] == "string_unicode":
        message = _PLAIN_TEXT
    # Our own messages say what came, and a whole section would be too much to repeat.
    if error["type"] in ("missing", "value_error") or isinstance(error["input"], dict):
        return f"{name}: {message}"
    return f"{name}: {message}, got {shown(error['input'])}"


def _fields_at(path: Sequence[str]) -> list[str]:
    """Names of what is in the section at `path`; `students.a` is a StudentSection. None where names are free, as those
    of environment variables."""
    section: type[BaseModel] = RunSettings
    if list(path) == ["students"]:
        return []
    if path and path[0] == "students":
        section, path = StudentSection, path[2:]
    for name in path:
        inner = section.model_fields[name].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return sorted(section.model_fields)


def flattened(tree: Tree, prefix: str = "") -> dict[str, object]:
    """Values by their keys with dots, `section.key`."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
