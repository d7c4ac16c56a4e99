"""A server with vLLM's routes that answers by heart, and hangs, dies or forgets when told to."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from services.student.engines.vllm.wire import ADAPTERS, Needs
from tests.fakes.waiting import WAIT_S

BASE = "base"
LIMIT = 4096
UNMARKED = "default"


class FakeVllm:
    """Listens on `socket`. Every completion is its prompt's last id, `max_tokens` times, at log-prob -0.5.

    hung: completions are not answered until it is cleared; left: how many were not waited for. hung_copies: those that
    ask one of these copies are not, either, nor those of more than one token where it loses. dead: they fail, while
    the list of models is still given.
    paused, asleep: by its routes; completions wait, or are not to come. weights: the directory whose weights it has,
    None when a reload has failed. mark: what it calls them. restarts_in_a_read: somebody starts it again once it has
    read weights.
    unreadable: directories that it cannot read. reads: those that it was told to. seen: the weights and the salt of
    each completion.
    text: of every token that is streamed; behind: what is said behind the last one. refusal: what it says to an
    adapter. probed: log-prob of every id that a probe asks for; effect: what an adapter adds to it. numberless: its
    log-probs are not finite, which it streams as null and cannot answer otherwise.
    raw: its log-probs are the model's own, whatever is drawn from.
    counted: tokens that it says it has computed, `works` more each time that it is asked; None: it keeps no count.
    in_hand: requests that it says run in each of its `copies`; None: it does not say.
    refuses_with: the status of a refusal.
    """

    def __init__(self, socket: Path, needs: Needs = ADAPTERS) -> None:
        self._needs = needs
        self.url = f"unix:{socket}"
        self.models: dict[str, str] = {}
        self.bodies: list[dict[str, Any]] = []
        self.hung, self.dead = threading.Event(), threading.Event()
        self.loses = threading.Event()
        self.left = 0
        self.hung_copies: set[str] = set()
        self.paused, self.asleep = threading.Event(), threading.Event()
        self.weights: str | None = BASE
        self.mark = UNMARKED
        self.restarts_in_a_read = False
        self.unreadable: set[str] = set()
        self.reads: list[str] = []
        self.seen: list[tuple[str | None, str | None]] = []
        self.text = "x"
        self.behind: dict[str, Any] | None = None
        self.refusal: str | None = None
        self.refuses_with = 400
        self.counted: int | None = 0
        self.works = 0
        self.in_hand: int | None = None
        self.copies = 1
        self.probed = -2.0
        self.effect = 0.0
        self.numberless = False
        self.names_as_ids = True
        self.raw = False
        self.version = "0.32.0"
        config = uvicorn.Config(self._app(), uds=str(socket), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(WAIT_S)

    def restart_empty(self) -> None:
        """As after a restart: the base model alone."""
        self.models.clear()
        self.weights, self.mark = BASE, UNMARKED
        self.paused.clear()

    def _app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.get("/openapi.json")
        def description() -> dict[str, Any]:
            schema: dict[str, object] = {"CompletionRequest": {"properties": {name: {} for name in self._needs.fields}}}
            return {"paths": {name: {} for name in self._needs.routes}, "components": {"schemas": schema}}

        @app.get("/metrics")
        def metrics() -> Response:
            if self.counted is None:
                return Response(status_code=404)
            self.counted += self.works
            name = "vllm:generation_tokens_total"
            counts = [f'# TYPE {name} counter\n{name}{{engine="0"}} {self.counted}.0\nvllm:other 7.0\n']
            for copy in range(self.copies if self.in_hand is not None else 0):
                labels = f'{{engine="{copy}",model_name="{BASE}"}}'
                counts.append(f"vllm:num_requests_running{labels} {self.in_hand}.0\n")
                counts.append(f"vllm:num_requests_waiting{labels} 0.0\n")
            return Response("".join(counts))

        @app.get("/version")
        def version() -> dict[str, str]:
            return {"version": self.version}

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            held = [{"id": name, "root": root, "parent": BASE} for name, root in self.models.items()]
            return {"data": [{"id": BASE, "root": "/m", "max_model_len": LIMIT}, *held]}

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> Response:
            body = await request.json()
            if self.refusal is not None or body["lora_name"] in self.models:
                return JSONResponse({"error": {"message": self.refusal or "already loaded"}}, self.refuses_with)
            self.models[body["lora_name"]] = body["lora_path"]
            return Response("loaded")

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request) -> Response:
            known = self.models.pop((await request.json())["lora_name"], None)
            return Response(status_code=404 if known is None else 200)

        @app.post("/pause")
        async def pause(mode: str, clear_cache: bool) -> Response:
            assert (mode, clear_cache) == ("keep", False)
            self.paused.set()
            return Response()

        @app.post("/sleep")
        async def sleep(level: int) -> Response:
            assert level == 1 and not self.asleep.is_set()
            self.asleep.set()
            return Response()

        @app.post("/wake_up")
        async def wake() -> Response:
            assert self.asleep.is_set()
            self.asleep.clear()
            return Response()

        @app.post("/resume")
        async def resume() -> Response:
            self.paused.clear()
            return Response()

        @app.post("/collective_rpc")
        async def reload(request: Request) -> Response:
            body = await request.json()
            assert body["method"] == "reload_weights" and self.paused.is_set()
            assert request.headers["connection"] == "close"  # after an error vLLM closes it, whoever else is on it
            directory = body["kwargs"]["weights_path"]
            self.reads.append(directory)
            self.weights = None if directory in self.unreadable else directory
            if self.restarts_in_a_read:
                self.restart_empty()
            return Response(status_code=500 if self.weights is None else 200)

        @app.post("/update_weight_version")
        async def mark(request: Request) -> dict[str, Any]:
            self.mark = (await request.json())["new_version"]
            return {"success": True, "new_version": self.mark}

        @app.get("/weight_info")
        def marked() -> dict[str, str]:
            return {"weight_version": self.mark}

        @app.post("/v1/completions")
        async def complete(request: Request) -> Response:
            assert not self.asleep.is_set(), "asked while it sleeps"
            body = await request.json()
            self.bodies.append(body)
            return await self._completed(request, body)

        return app

    async def _completed(self, request: Request, body: dict[str, Any]) -> Response:
        if body["model"] not in (BASE, *self.models):
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        copy = request.headers.get("X-data-parallel-rank")
        lost = self.loses.is_set() and body["max_tokens"] > 1
        while lost or self.hung.is_set() or self.paused.is_set() or copy in self.hung_copies:
            if await request.is_disconnected():
                self.left += 1
                break
            await _moment()
        self.seen.append((self.weights, body.get("cache_salt")))
        if self.dead.is_set() or self.weights is None:
            return JSONResponse({"error": {"message": "EngineCore encountered an issue"}}, 500)
        if self.numberless and not body.get("stream"):
            return JSONResponse({"error": {"message": "Out of range float values are not JSON compliant: nan"}}, 500)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        if body.get("stream"):
            return StreamingResponse(self._streamed(prompts[0], body), media_type="text/event-stream")
        choices = [self._choice(index, prompt, body) for index, prompt in enumerate(prompts)]
        return JSONResponse({"choices": choices})

    def _streamed(self, prompt: list[int], body: dict[str, Any]) -> Iterator[str]:
        """A token an event, with every character of its text as it is, as vLLM does it."""
        for left in reversed(range(body["max_tokens"])):
            one = {**self._choice(0, prompt, {**body, "max_tokens": 1}), "text": self.text}
            event = {"choices": [one if left == 0 else {**one, "finish_reason": None}]}
            yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
        if self.behind is not None:
            yield f"data: {json.dumps(self.behind)}\n\n"
        yield "data: [DONE]\n\n"

    def _choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        count = body["max_tokens"]
        # By their texts unless ids are asked for, and the drawn one always among them.
        as_ids = self.names_as_ids and body.get("return_tokens_as_token_ids")
        named = "token_id:{}" if as_ids else "text of {}"
        asked = {named.format(prompt[-1]): -0.5}
        probed = self.probed + (self.effect if body["model"] in self.models else 0.0)
        asked |= {named.format(token): probed for token in body.get("logprob_token_ids", ())}
        alone = body.get("top_p", 1.0) < 1e-3 and not self.raw
        logprob = None if self.numberless else 0.0 if alone else -0.5
        return {
            "index": index,
            "token_ids": [prompt[-1]] * count,
            "logprobs": {"token_logprobs": [logprob] * count, "top_logprobs": [asked] * count},
            "finish_reason": "length",
        }


async def _moment() -> None:
    import asyncio

    await asyncio.sleep(0.01)
