"""Versions as whole models on a vLLM server, which has room for one: the one that is asked for is read into it.

What always holds: weights change only while no request runs and none can begin; no request sees cached keys and values
of other weights, since each time that weights were read has a salt of its own; after a reload that failed, the weights
before it are read again, or else the server is given up, and ended where it is ours. A server of ours that came back
has the base model's. Of one that was found nothing is known: it is given weights before it is used, and a mark of this
process with them, and no answer counts that it gave when the mark was gone.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog
from transformers import PreTrainedModel

from services.student.engines.port import EngineAwayError, RefusedError, UnknownVersionError, Unwanted
from services.student.engines.vllm.resident import Residency
from services.student.engines.vllm.server import Life, Server, gone
from services.student.engines.vllm.untied import Untied
from services.student.engines.vllm.weights import Files
from shared.contracts.models import Stamp
from shared.errors import ModelError, OpcodError
from shared.modeling.checksums import file_checksum, stamps
from shared.modeling.versions import checked_full, require_tensors_of

log = structlog.get_logger()

Asked = tuple[Life, Files]
"""What is to be resident, and in which life of the server."""


class FullWeights:
    """See `weights.Weights`.

    model_dir, base_checksum: the base model's; served: the one that the server was started with; skeleton: its
    parameters without values. untied: makes what the server reads; None: it reads the versions' own directories.
    """

    base_stays = False

    def __init__(
        self,
        server: Server,
        model_dir: Path,
        base_checksum: str,
        served: Path,
        skeleton: PreTrainedModel,
        untied: Untied | None,
    ) -> None:
        self._server = server
        self._parameters = dict(skeleton.named_parameters())
        self._untied = untied
        files = sorted(model_dir.glob("*.safetensors"))
        self._base = Files(base_checksum, model_dir.resolve(), served, _stamps(files))
        self._held: dict[str, Files] = {}
        self._residency: Residency[Asked] = Residency(self._swap)
        self._last: Asked | None = None
        self._swaps = 0
        self._token = secrets.token_hex(4)

    def check(self, directory: Path | None, known: str | None) -> Files:
        if directory is None:
            return self._base
        files = sorted(directory.glob("*.safetensors"))
        seen = _stamps(files)  # before anything is read: what is written meanwhile shows later
        if not files:
            raise ModelError(f"expected all weights as safetensors in {directory}, found none")
        tensors = checked_full(*files)
        require_tensors_of(self._parameters, tensors, str(directory))
        others = sorted(name for name, tensor in tensors.items() if tensor.dtype != self._parameters[name].dtype)
        if others:
            raise ModelError(
                f"expected weights in {self._parameters[others[0]].dtype}, as this student has them, in {directory}, "
                f"found {tensors[others[0]].dtype} in {', '.join(others[:3])}"
            )
        return Files(known or file_checksum(*files), directory.resolve(), directory.resolve(), seen)

    def load(self, life: Life, version: str, files: Files) -> str | None:
        """It is resident once."""
        if self._untied is not None and files != self._base:
            files = replace(files, served=self._untied.add(version, files.directory))
        # Held before it is read, since `serving` looks it up there; given up again where the read fails.
        self._held[version] = files
        try:
            with self.serving(life, version, lambda: gone(life, self._server)):
                return None
        except OpcodError:
            self._held.pop(version, None)
            raise

    def unload(self, life: Life, version: str, name: str | None) -> None:  # noqa: ARG002 - the server need not know
        self._held.pop(version, None)
        if self._untied is not None:
            # The last one read stays on disk though it is unloaded: a read that fails goes back to it.
            last = self._base if self._last is None else self._last[1]
            self._untied.keep({files.served for files in (self._base, last, *self._held.values())})

    def together(self, versions: Sequence[str]) -> list[list[int]]:
        return [[place for place, one in enumerate(versions) if one == version] for version in dict.fromkeys(versions)]

    @contextmanager
    def serving(self, life: Life, version: str, unwanted: Unwanted) -> Iterator[Mapping[str, str]]:
        files = self._held.get(version)
        if files is None:
            raise UnknownVersionError(f"{version} was unloaded meanwhile: load it first")
        try:
            self._residency.enter((life, files), unwanted)
        except ModelError:
            self._server.unloaded(version)  # whoever asks for it next has it checked and loaded again
            raise
        try:
            yield {"cache_salt": f"{files.checksum[:16]}-{self._swaps}"}
            # Asked after the answer, and not before: a server may be started again in between.
            self._server.require_mark(life)
        finally:
            self._residency.leave()

    def _swap(self, asked: Asked) -> None:
        """See `Residency`."""
        life, files = asked
        # The watch would take the paused server for one that hangs, and end it in the middle of a read.
        with self._server.undisturbed():
            if (lost := gone(life, self._server)) is not None:
                raise lost
            if files != (last := self._resident(life)):
                _require_unchanged(files)
                self._read(life, files, last or self._base)
            self._last = asked
            # A new salt each time weights are read, not for each version: a request that was given up may go on for a
            # moment and cache, under the old salt, what the new weights made.
            self._swaps += 1

    def _resident(self, life: Life) -> Files | None:
        """What is in the server; None where nobody knows."""
        if self._last is not None and self._last[0] == life:
            return self._last[1]
        return None if self._server.marked else self._base

    def _read(self, life: Life, files: Files, last: Files) -> None:
        """Raises ModelError with the last weights in place, EngineAwayError with the server given up."""
        try:
            life.client.pause()
            failure = self._reload(life, files, last)
            # The mark was set before the read: with it still there, this life has read.
            self._server.require_mark(life)
            # Also after a failure: a server that stays paused answers nobody.
            life.client.resume()
        except (EngineAwayError, RefusedError) as lost:
            log.error("weights could not be swapped; the server is given up", directory=str(files.directory))
            self._server.abandon(life)
            raise EngineAwayError(f"vLLM was lost while it read {files.directory}: {lost}") from lost
        if failure is not None:
            raise ModelError(
                f"vLLM could not read {files.directory}; it has the weights of {last.directory} again: {failure}"
            ) from failure

    def _reload(self, life: Life, files: Files, last: Files) -> Exception | None:
        """Why it failed: then the last weights were read again, without which the server would be of no use."""
        try:
            self._put(life, files)
        except (EngineAwayError, RefusedError) as failed:
            # vLLM leaves a model on meta tensors when a reload fails; the next request would kill it for good.
            self._put(life, last)
            return failed
        return None

    def _put(self, life: Life, files: Files) -> None:
        """Have them read. Raises EngineAwayError and RefusedError."""
        if self._server.marked:
            # Of this process: who was here before may have given the same weights.
            self._server.mark(life, f"{files.checksum[:16]}-{self._token}-{self._swaps}")
        life.client.reload(files.served, self._server.start_s)


def _stamps(files: Sequence[Path]) -> tuple[Stamp, ...]:
    """Raises ModelError where one is not there."""
    try:
        return stamps(files)
    except OSError as error:
        raise ModelError(f"expected the files of a version: {error}") from error


def _require_unchanged(files: Files) -> None:
    """The server reads them by itself, maybe long after they were checked. Raises ModelError."""
    if _stamps(sorted(files.directory.glob("*.safetensors"))) != files.stamps:
        raise ModelError(f"{files.directory} was written to, or removed, after it was checked: publish it again")
