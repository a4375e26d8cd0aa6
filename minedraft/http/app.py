"""The door as an ASGI application: routes, and what each does."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from minedraft.client import awaited_peer
from minedraft.config import MIB, HttpSettings
from minedraft.errors import InternalError, MinedraftError, PeerUnavailable
from minedraft.http.answers import Head, to_json, usage
from minedraft.http.asked import Asked
from minedraft.http.body import read_json
from minedraft.http.chat import ChatAnswers
from minedraft.http.completions import CompletionAnswers
from minedraft.http.connection import while_connected
from minedraft.http.errors import ModelNotFound, Problem
from minedraft.http.generations import Generations
from minedraft.http.keys import ApiKeys
from minedraft.http.measured import REQUEST_ID, Measured
from minedraft.http.metrics import GenerationMeter, Metrics
from minedraft.http.schema import Limits, read_chat_request, read_completion_request
from minedraft.http.streaming import EventStream, events
from minedraft.http.tracing import trace_headers
from minedraft.http.upstream import Served, Serving, Trusting, Upstream
from minedraft.http.vocabulary import Vocabulary

HEALTH_SECONDS: Final = 2.0
GUARDED: Final = "/v1/"
OPEN: Final = frozenset({"/v1/health"})

Answers = ChatAnswers | CompletionAnswers


class Door:
    """An ASGI application. All calls are made on one event loop."""

    def __init__(
        self,
        settings: HttpSettings,
        upstream: Upstream,
        *,
        vocabulary: Vocabulary | None = None,
        keys: ApiKeys | None = None,
    ) -> None:
        """Without `vocabulary` log-probabilities name tokens by their ids; without `keys` everyone may ask."""
        self.metrics = Metrics()
        self.leaving = asyncio.Event()  # once set, running answers end
        self._settings = settings
        self._upstream = Trusting(upstream)
        self._served = Served(self._upstream, vocabulary or Vocabulary(), settings.model_name)
        self._keys = keys
        self._limits = Limits(choices=settings.max_choices)
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completion, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
            *(Route(path, self._health, methods=["GET"]) for path in ("/health", "/v1/health")),
            Route("/metrics", self._metrics_text, methods=["GET"]),
        ]
        router = Router(routes, redirect_slashes=False)
        handlers: dict[Any, Any] = {HTTPException: _problem, Exception: _problem}
        self._stack: ASGIApp = Measured(ExceptionMiddleware(self._guarded(router), handlers), self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # the router then raises for unknown paths, in place of answering in plain text
        await self._stack(scope, receive, send)

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if self._keys is not None and scope["path"].startswith(GUARDED) and scope["path"] not in OPEN:
                self._keys.check(Request(scope).headers.get("authorization"))
            await app(scope, receive, send)

        return guarded

    async def _chat(self, request: Request) -> Response:
        asked = read_chat_request(await self._body(request), self._limits)
        logprobs = asked.sampling.logprobs is not None
        return await self._answer(request, asked, lambda serving: ChatAnswers(serving.vocabulary, logprobs=logprobs))

    async def _completion(self, request: Request) -> Response:
        asked = read_completion_request(await self._body(request), self._limits)
        return await self._answer(request, asked, lambda serving: CompletionAnswers(serving.vocabulary, asked))

    async def _body(self, request: Request) -> object:
        return await read_json(request, self._settings.max_message_mib * MIB)

    async def _answer(self, request: Request, asked: Asked, dialect_for: Callable[[Serving], Answers]) -> Response:
        begun = time.perf_counter()
        if self.leaving.is_set():
            raise PeerUnavailable("the server is shutting down")
        name = self._served.coordinators_name(asked.model)
        serving = await self._served.now()
        asked.check(serving.target)
        dialect = dialect_for(serving)
        head = Head(
            id=f"{dialect.id_prefix}{uuid.uuid4().hex}",
            created=int(time.time()),
            model=asked.model or serving.names[0],
            fingerprint=serving.fingerprint,
        )
        generations = Generations(
            self._upstream,
            asked.requests(name, request.scope[REQUEST_ID], trace_headers(request.headers)),
            meter=lambda: GenerationMeter(self.metrics, begun),
            translated=asked.in_its_words,
        )
        if asked.stream:
            return await EventStream.begun(events(head, dialect, generations, asked), request.receive, self.leaving)
        outputs = await while_connected(request.receive, self.leaving, generations.whole())
        choices = [dialect.whole(choice, output) for choice, output in enumerate(outputs)]
        return _json(head.document(dialect.whole_kind, choices) | {"usage": usage(outputs, asked.n)})

    async def _models(self, request: Request) -> Response:
        serving = await self._served.now()
        return _json({"object": "list", "data": [_model_card(serving, name) for name in serving.names]})

    async def _model(self, request: Request) -> Response:
        serving, name = await self._served.now(), request.path_params["model"]
        if name not in serving.names:
            raise ModelNotFound(name)
        return _json(_model_card(serving, name))

    async def _health(self, request: Request) -> Response:
        """200 when a request would be served now."""
        info = await self._served.info(HEALTH_SECONDS)
        missing = awaited_peer(info, drafter=False)
        if missing or self.leaving.is_set():
            raise PeerUnavailable(missing or "the server is shutting down")
        return _json({"status": "ok"})

    async def _metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _model_card(serving: Serving, name: str) -> dict[str, Any]:
    """OpenAI's fields, and the longest sequence under the name that vLLM gives it."""
    return {
        "id": name,
        "object": "model",
        "created": serving.created,
        "owned_by": "minedraft",
        "max_model_len": serving.target.max_len,
    }


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, InternalError) or not isinstance(error, MinedraftError | HTTPException | ClientDisconnect):
        structlog.get_logger().error("request failed", request_id=request.scope[REQUEST_ID], exc_info=error)
    return Problem.of(error).response()


def _json(document: dict[str, Any]) -> Response:
    return Response(to_json(document), media_type="application/json")
