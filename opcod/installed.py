"""Which packages are installed here: in containers the command line has an image without torch, that draws nothing."""

from importlib.util import find_spec

from shared.errors import ConfigError

MODEL_PACKAGES = ("torch", "transformers", "peft", "safetensors")


def require_model_packages(what: str) -> None:
    """Before anything that loads a model, here or in a process that is started for it. what: as in "`opcod replay`".

    Raises ConfigError that says where it can be done, if a package is missing here.
    """
    _require(MODEL_PACKAGES, what)


def require_drawing() -> None:
    """Before the pictures of a report are drawn. Raises ConfigError like `require_model_packages`."""
    _require(("matplotlib",), "drawing a report's pictures")


def _require(packages: tuple[str, ...], what: str) -> None:
    # Looked for and not imported: importing torch takes seconds.
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {', '.join(missing)}: not installed here. Where services are containers, do it in "
            "one like the trainers' (`docker-compose run --rm --no-deps trainer-a opcod …`, with GPUs trainer-a-gpu; "
            "`kubectl -n opcod exec trainer-a-0 -- opcod …`), elsewhere `pip install -c constraints.txt -e '.[local]'`"
        )
