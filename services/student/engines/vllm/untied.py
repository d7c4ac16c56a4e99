"""For vLLM on CPUs: a model whose output layer is its embedding, with that layer as a tensor of its own.

There vLLM 0.32 packs the output layer when it starts, and a reload of weights renews the packed form only of what it
read by its own name: a tied output layer would stay the one of the start. What the server gets instead is a directory
that links to the real one, and holds the output layer, and a configuration that ties nothing.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from shared.errors import ModelError
from shared.files.store import patiently
from shared.modeling.tensorfiles import opened_tensors

CONFIG = "config.json"
TIED_FILE = "tied.safetensors"


class Untied:
    """Directories under `root`, which belongs to this process alone and is emptied first.

    tied: the name of a parameter by each further name that it has.
    """

    def __init__(self, root: Path, tied: Mapping[str, str]) -> None:
        self._root = root
        self._tied = tied
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)

    def add(self, name: str, directory: Path) -> Path:
        """The model in `directory` as one that ties nothing. Raises ModelError."""
        made = self._root / name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for file in directory.iterdir():
            if file.name != CONFIG and not file.name.endswith(".index.json"):  # vLLM reads only what an index lists
                (made / file.name).symlink_to(file.resolve())
        try:
            config = json.loads(patiently((directory / CONFIG).read_bytes))
            (made / CONFIG).write_text(json.dumps({**config, "tie_word_embeddings": False}))
            self._write_tied(made, sorted(directory.glob("*.safetensors")))
        except (OSError, ValueError) as error:
            raise ModelError(f"expected a whole model in {directory}: {error}") from error
        return made

    def keep(self, used: Collection[Path]) -> None:
        """Remove the others."""
        for made in set(self._root.iterdir()) - set(used):
            shutil.rmtree(made, ignore_errors=True)

    def _write_tied(self, made: Path, files: list[Path]) -> None:
        tensors: dict[str, Tensor] = {}
        for file in files:
            with opened_tensors(file) as opened:
                there = set(opened.keys())
                tensors |= {alias: opened.get_tensor(name) for alias, name in self._tied.items() if name in there}
        if tensors:
            save_file(tensors, made / TIED_FILE, metadata={"format": "pt"})
