"""Packages that only some commands and services need."""

from importlib import import_module
from types import ModuleType

from shared.errors import ConfigError


def optional(module: str, install: str) -> ModuleType:
    """Imported when it is needed. install: the command that brings it.

    Raises ConfigError that names the command.
    """
    try:
        return import_module(module)
    except ImportError as missing:
        raise ConfigError(f"this needs a package that is not installed: `{install}`") from missing
