"""Talking to one life of a vLLM server: the few routes that are used, over a unix socket or HTTP.

What always holds: no other route is ever called, and none of what the server answers is believed before it has its
shape. All requests run on one event loop in a thread of its own; the methods may be called from any thread.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from services.student.engines.port import EngineAwayError, RefusedError, Unwanted
from services.student.engines.vllm.wire import (
    Completion,
    Description,
    ServedModel,
    ServedModels,
    ServerChoice,
    ServerLoad,
    ServerLogprobs,
    StreamPart,
    Version,
    WeightInfo,
    server_load,
)
from shared.errors import reason

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 60.0
"""Of everything but a generation, which takes as long as its tokens do; the server's watch sees a server that hangs."""

KEEPALIVE_S = 2.0
"""Less than the server's 5 s, or a connection might be used just as it is closed."""

CHECK_S = 0.2
"""How soon a generation that is not wanted any more is dropped."""

COMPLETIONS = "/v1/completions"
METRICS = "/metrics"
COUNTED_TOKENS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
COPY = "X-data-parallel-rank"
DONE = "[DONE]"
_FOR_EVER = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
_KEPT_OF_AN_ERROR = 500
_ALONE = {"Connection": "close"}
"""vLLM closes a connection after an error in a development route, maybe just when the next request is sent on it."""

_NO_NUMBERS = "Out of range float values are not JSON compliant"
"""How Python's JSON, and so a server of vLLM's, fails on a log-prob that is not finite."""

_BAD_REQUESTS = frozenset({400, 413, 422})

Shape = TypeVar("Shape", bound=BaseModel)
Result = TypeVar("Result")
Hear = Callable[[ServerChoice], bool]
"""Takes more of a sequence, on the loop; whether there is still somebody who wants the rest."""


@dataclass(frozen=True)
class Call:
    """The request of one sequence; with `hear` it is streamed."""

    body: Mapping[str, Any]
    hear: Hear | None = None


class UnreadableAnswerError(EngineAwayError):
    """What it answered has not the shape that is expected: it would say so again."""


class UnansweredError(EngineAwayError):
    """No answer came in the time that there was for it."""


class NobodyThereError(EngineAwayError):
    """Nobody listens there: not yet, or not any more."""


class StatusError(EngineAwayError):
    """The server is there, and answered that it failed; asked again it may not."""


class NoNumberError(StatusError):
    """The server could not write its answer: a log-prob in it is not finite. It is there, and would say so again."""


class VllmClient:
    """url: `http://host:port`, or `unix:/path`. Raises EngineAwayError where the server does not answer properly."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self.key = key
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._http = httpx2.AsyncClient(
            base_url=url if socket is None else "http://engine",
            transport=httpx2.AsyncHTTPTransport(uds=socket, limits=httpx2.Limits(keepalive_expiry=KEEPALIVE_S)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(CALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            follow_redirects=False,
            trust_env=False,
        )
        self._heard = 0
        # An async client belongs to one loop, and the callers are many threads: so the loop has a thread of its own.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-client", daemon=True)
        self._thread.start()

    def complete(self, calls: Sequence[Call], unwanted: Unwanted) -> list[ServerChoice]:
        """The one choice of each call, all asked for at once. Raises what `unwanted` returns, soon after it does."""
        future = self._submit(self._gather(calls))
        # No deadline: a generation takes as long as its tokens do. `unwanted`, asked every CHECK_S, ends it early, also
        # where the server has lost it.
        while not wait([future], timeout=CHECK_S).done:
            if (reason := unwanted()) is not None:
                future.cancel()
                raise reason
        try:
            return future.result()
        except CancelledError as error:
            raise EngineAwayError(f"the connection to {self.url} was closed") from error

    def choices(
        self, body: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S, copy: int | None = None
    ) -> list[ServerChoice]:
        """All choices of one request, in the order of its prompts. copy: of the model, behind the server, which is to
        answer; None: the one that has the least to do."""
        headers = None if copy is None else {COPY: str(copy)}
        answer = self._run(self._post(COMPLETIONS, body, Completion, timeout_s, headers), timeout_s)
        return sorted(answer.choices, key=lambda choice: choice.index)

    def models(self, timeout_s: float = CALL_TIMEOUT_S) -> list[ServedModel]:
        """The base model and every version that the server holds."""
        return self._run(self._get("/v1/models", ServedModels, timeout_s), timeout_s).data

    def progress(self, timeout_s: float = CALL_TIMEOUT_S, copy: int | None = None) -> float:
        """Grows while the server computes: the tokens that it counts, and what of completions came here. copy: its
        tokens alone."""
        heard, of_it = (self._heard, "") if copy is None else (0, f'engine="{copy}"')
        try:
            counts = self._metrics(timeout_s).splitlines()
            lines = [line for line in counts if line.startswith(COUNTED_TOKENS) and of_it in line]
            return heard + sum(float(line.split()[-1]) for line in lines)
        except ValueError:
            return heard

    def server_load(self, timeout_s: float = CALL_TIMEOUT_S) -> ServerLoad:
        """What runs or waits in it, whoever asked."""
        return server_load(self._metrics(timeout_s))

    def version(self) -> str:
        return self._run(self._get("/version", Version, CALL_TIMEOUT_S)).version

    def description(self) -> Description:
        return self._run(self._get("/openapi.json", Description, CALL_TIMEOUT_S))

    def load(self, name: str, directory: Path) -> None:
        """Hold the adapter in `directory` as `name`. Raises RefusedError."""
        body = {"lora_name": name, "lora_path": str(directory)}
        self._run(self._send("POST", "/v1/load_lora_adapter", body, CALL_TIMEOUT_S))

    def unload(self, name: str) -> None:
        self._run(self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, CALL_TIMEOUT_S))

    def pause(self) -> None:
        """Stop in the middle of every request, and begin none, until `resume`."""
        path = "/pause?mode=keep&clear_cache=false"
        self._run(self._send("POST", path, None, CALL_TIMEOUT_S))

    def sleep(self, timeout_s: float) -> None:
        """Weights and adapters go to the host, keys and values are dropped, until `wake`."""
        self._run(self._send("POST", "/sleep?level=1", None, timeout_s, _ALONE), timeout_s)

    def wake(self, timeout_s: float) -> None:
        self._run(self._send("POST", "/wake_up", None, timeout_s, _ALONE), timeout_s)

    def resume(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._run(self._send("POST", "/resume", None, timeout_s), timeout_s)

    def reload(self, directory: Path, timeout_s: float) -> None:
        """Read the weights of a whole model in place of what is there; where it fails, nothing usable is there."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self._run(self._send("POST", "/collective_rpc", body, timeout_s, _ALONE), timeout_s)

    def mark(self, name: str) -> None:
        """Call the weights that are there by that name, until they are called otherwise or the server ends."""
        self._run(self._send("POST", "/update_weight_version", {"new_version": name}, CALL_TIMEOUT_S))

    def marked(self, timeout_s: float = CALL_TIMEOUT_S) -> str:
        return self._run(self._get("/weight_info", WeightInfo, timeout_s), timeout_s).weight_version

    def close(self) -> None:
        """Drop every request and end the thread; once more changes nothing."""
        if self._loop.is_closed():
            return
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _metrics(self, timeout_s: float) -> str:
        try:
            return self._run(self._send("GET", METRICS, None, timeout_s), timeout_s).text
        except (StatusError, RefusedError):
            return ""  # one that was found may keep no count

    # On the loop -----------------------------------------------------------------------------------------
    async def _gather(self, calls: Sequence[Call]) -> list[ServerChoice]:
        """Once one fails, nobody waits for the others: they are cancelled."""
        asked = [asyncio.ensure_future(self._one(call)) for call in calls]
        try:
            return list(await asyncio.gather(*asked))
        finally:
            for one in asked:
                one.cancel()

    async def _one(self, call: Call) -> ServerChoice:
        if call.hear is not None:
            return await self._streamed(call.body, call.hear)
        choice = _only_choice(await self._post(COMPLETIONS, call.body, Completion, None))
        self._heard += 1
        return _ended(choice)

    async def _streamed(self, body: Mapping[str, Any], hear: Hear) -> ServerChoice:
        """All of a sequence that is told of as it comes; it ends early, as if at its limit, when nobody wants it."""
        parts: list[ServerChoice] = []
        try:
            streamed = {**body, "stream": True}
            async with self._http.stream("POST", COMPLETIONS, json=streamed, timeout=_FOR_EVER) as answer:
                # A streamed body is not read by itself, and the error's text is in it.
                if answer.status_code != 200:
                    await answer.aread()
                _require_ok(COMPLETIONS, answer)
                async for event in httpx2.EventSource(answer):
                    # Read on to the end of the answer: only then is the connection kept for the next request.
                    if event.data == DONE:
                        continue
                    told = _shaped(COMPLETIONS, event.data, StreamPart)
                    if told.error is not None:
                        raise StatusError(f"vLLM gave a request up: {event.data[:_KEPT_OF_AN_ERROR]}")
                    # What a server may say of usage behind the last part.
                    if told.choices == []:
                        continue
                    part = _only_choice(told)
                    parts.append(part)
                    self._heard += 1
                    # Leaving the stream closes its connection, which is how vLLM learns that nobody wants the rest.
                    if not hear(part):
                        return joined([*parts, ServerChoice(finish_reason="length")])
        except httpx2.HTTPError as error:
            raise EngineAwayError(f"vLLM broke {COMPLETIONS} off: {error!r}") from error
        return _ended(joined(parts))

    async def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        shape: type[Shape],
        timeout_s: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> Shape:
        return _shaped(path, (await self._send("POST", path, body, timeout_s, headers)).content, shape)

    async def _get(self, path: str, shape: type[Shape], timeout_s: float) -> Shape:
        return _shaped(path, (await self._send("GET", path, None, timeout_s)).content, shape)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float | None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            response = await self._http.request(method, path, json=body, headers=headers, timeout=timeout)
        except httpx2.TimeoutException as error:
            raise UnansweredError(f"vLLM did not answer {path} in time: {error!r}") from error
        except httpx2.HTTPError as error:
            kind = NobodyThereError if _is_nobody(error) else EngineAwayError
            raise kind(f"vLLM did not answer {path}: {error!r}") from error
        _require_ok(path, response)
        return response

    async def _end(self) -> None:
        # Whoever waits for one of these gets CancelledError, and tells it as an engine that is away.
        mine = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not mine:
                task.cancel()
        await self._http.aclose()

    def _submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        if self._loop.is_closed():
            # Never awaited, it would warn when it is collected.
            coroutine.close()
            raise EngineAwayError(f"the connection to {self.url} is closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float = CALL_TIMEOUT_S) -> Result:
        """Of what has a timeout of its own; it never ends if the loop ends first."""
        try:
            return self._submit(coroutine).result(timeout=timeout_s + 2 * CONNECT_TIMEOUT_S)
        except (TimeoutError, CancelledError) as error:
            raise EngineAwayError(f"the connection to {self.url} was closed") from error


def _is_nobody(error: BaseException | None) -> bool:
    """Whether a connection was refused, or its socket is gone, somewhere below what HTTP made of it."""
    while error is not None and not isinstance(error, ConnectionRefusedError | FileNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None


def joined(parts: Sequence[ServerChoice]) -> ServerChoice:
    """The parts of one sequence as one."""
    return ServerChoice(
        token_ids=[token for part in parts for token in part.token_ids],
        logprobs=ServerLogprobs(
            token_logprobs=[one for part in parts for one in part.token_logprobs],
            top_logprobs=[one for part in parts for one in part.top_logprobs],
        ),
        finish_reason=parts[-1].finish_reason if parts else None,
    )


def _only_choice(answer: Completion) -> ServerChoice:
    if len(answer.choices) != 1:
        raise EngineAwayError(f"expected the one choice that vLLM was asked for, got {len(answer.choices)}")
    return answer.choices[0]


def _ended(choice: ServerChoice) -> ServerChoice:
    if choice.finish_reason not in ("stop", "length"):
        raise EngineAwayError(f"vLLM gave a request up ({choice.finish_reason or 'it ended without a reason'})")
    return choice


def _require_ok(path: str, response: httpx2.Response) -> None:
    """Raises RefusedError where asking again is useless, StatusError for every other status but 200."""
    # 404 is not among them: a server that came back does not know the version's name, and knows it once it is loaded.
    if response.status_code in _BAD_REQUESTS:
        raise RefusedError(f"vLLM refused {path}: {response.text[:_KEPT_OF_AN_ERROR]}")
    if response.status_code != 200:
        kind = NoNumberError if _NO_NUMBERS in response.text else StatusError
        raise kind(f"vLLM answered {path} with {response.status_code}: {response.text[:_KEPT_OF_AN_ERROR]}")


def _shaped(path: str, content: bytes | str, shape: type[Shape]) -> Shape:
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise UnreadableAnswerError(f"vLLM answered {path} with something else: {reason(error)}") from error
