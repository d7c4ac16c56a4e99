"""Weight files whose hashes agree and whose content is hostile: refused, and the version before goes on serving."""

import struct
from pathlib import Path

import pytest

from services.student.engines.scripted import Script, ScriptedEngine
from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.contracts.weights import FileEntry, WeightsManifest
from shared.files.store import LocalStore
from tests.fakes.student import RUN, publish_version, tensor_file

WHOLE = tensor_file(2)


TRACE = Path("/tmp/opcod-unpickled")
PICKLE = b"cos\nsystem\n(S'touch /tmp/opcod-unpickled'\ntR."
"""Whoever unpickles it leaves a trace."""

HOSTILE = {
    "empty": b"",
    "cut-in-header": WHOLE[:20],
    "cut-in-tensors": WHOLE[:-8],
    "header-longer-than-file": struct.pack("<Q", 10_000) + WHOLE[8:],
    "header-bomb": struct.pack("<Q", 2**63 - 1) + WHOLE[8:],
    "renamed-pickle": PICKLE,
    "tensor-beyond-file": WHOLE.replace(b"[0, 32]", b"[0, 99]"),
    "overlapping-offsets": WHOLE.replace(b"[0, 32]", b"[8, 32]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_f16_f27_hostile_file_is_refused_and_the_version_before_serves(name: str, tmp_path: Path) -> None:
    engine = ScriptedEngine(Script(problems=()))
    loader = WeightLoader(tmp_path / "weights" / "a", run=RUN, student="a", engine=engine, base_model=None)
    before = publish_version(tmp_path, 1)
    loader.load("a@v1")
    forge(tmp_path, HOSTILE[name], before)
    with pytest.raises(VersionRefusedError, match="a@v2"):
        loader.load("a@v2")
    assert engine.versions() == {"a@v1": before.checksum}
    assert not TRACE.exists()


def forge(run_dir: Path, content: bytes, like: WeightsManifest) -> None:
    """Version 2, with a manifest that agrees with its files in everything."""

    def manifest(files: tuple[FileEntry, ...]) -> bytes:
        changes = {"version": "a@v2", "parent": "a@v1", "step": 2, "files": files}
        return like.model_copy(update=changes).model_dump_json().encode()

    files = {"adapter_model.safetensors": content, "adapter_config.json": b"{}"}
    LocalStore(run_dir / "weights" / "a").write_directory("v000002", files, manifest)
