"""The methods that `opcod compare` sets side by side: each a few settings on top of the preset's."""

from collections.abc import Sequence

from shared.config.loading import nearest
from shared.errors import ConfigError

METHODS: dict[str, tuple[str, ...]] = {
    "opcod": ("run.method=opcod", "gate.mode=cognizance"),
    "always": ("run.method=opcod", "gate.mode=always"),
    "never": ("run.method=opcod", "gate.mode=never"),
    "domain_selective": ("run.method=opcod", "gate.mode=domain_selective"),
    "sdpo": ("run.method=sdpo",),
    "grpo": ("run.method=grpo",),
}

ALIKE = frozenset({"sdpo", "never"})
"""Where nobody ever tutors, each student learns alone: one computation under two names, so it is run once."""

OWNED = ("run.seed", "run.method", "gate.mode")
"""Settings that the comparison itself sets."""


def parse_methods(text: str) -> list[str]:
    """`opcod,sdpo` in order. Raises ConfigError for an unknown or repeated name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}{nearest(name, list(METHODS))}; there are: {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--methods: expected different methods of {', '.join(METHODS)}, got {text!r}")
    return names


def alike(method: str, methods: Sequence[str]) -> list[str]:
    """Those of `methods` that compute the same as `method`, itself among them, in order."""
    return [name for name in methods if name == method or {name, method} <= ALIKE]


def refuse_owned(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override of what the comparison sets."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in OWNED:
            raise ConfigError(f"--set {key}: `opcod compare` sets it itself; use --methods and --seeds")
