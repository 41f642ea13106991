"""Which request gets which answer."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from services.sim import bodies
from services.sim.answers import chat_answer, chat_prompt, completion_answer, utf8
from services.sim.bodies import decode
from services.sim.calls import StreamedCall, WholeCall
from services.sim.config import SimConfig
from services.sim.embeddings import embedding_inputs, embedding_json
from services.sim.engine import Engine, QueueFullError, Sequence
from services.sim.errors import Refusal, api_error, busy, detail, invalid_field, unauthorized, unknown_model
from services.sim.faults import Fault, Faults
from services.sim.http import JSON, Connection, Request
from services.sim.metrics import exposition
from services.sim.ranking import rerank_json, score_json, score_pairs
from services.sim.render import chat_json, chat_script, completion_json, completion_script
from services.sim.words import detokenize, tokenize

_log = logging.getLogger(__name__)

Handler = Callable[[Request, Connection], None]


class Routes:
    """The routes of one simulated server, over its engine and its faults."""

    def __init__(self, config: SimConfig, engine: Engine, faults: Faults) -> None:
        self._config = config
        self._engine = engine
        self._faults = faults
        self._table: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": partial(self._call, self._chat)},
            "/v1/completions": {"POST": partial(self._call, self._completion)},
            "/v1/embeddings": {"POST": partial(self._call, self._embedding)},
            "/v1/models": {"GET": self._models},
            **{path: {"POST": partial(self._call, self._rerank)} for path in ("/rerank", "/v1/rerank", "/v2/rerank")},
            **{path: {"POST": partial(self._call, self._score)} for path in ("/score", "/v1/score")},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": lambda _, connection: _json(connection, {"version": "0.32.0"})},
            "/load": {"GET": lambda _, connection: _json(connection, {"server_load": engine.running + engine.waiting})},
            "/metrics": {"GET": self._metrics},
            "/sim/faults": {"GET": self._show_faults, "POST": self._add_fault, "DELETE": self._clear_faults},
        }

    def handle(self, request: Request, connection: Connection) -> None:
        """Answers a request: at once, or when the engine has its tokens."""
        methods = self._table.get(request.path)
        try:
            if request.path.startswith("/v1") and not self._authorized(request):
                raise unauthorized()
            if methods is None:
                raise detail(404, "Not Found")
            handler = methods.get(request.method)
            if handler is None:
                refusal = detail(405, "Method Not Allowed")
                connection.respond(405, refusal.body, headers=f"allow: {', '.join(methods)}\r\n".encode())
                return
            handler(request, connection)
        except Refusal as refusal:
            connection.respond(refusal.status, refusal.body)
        except QueueFullError:
            connection.respond(503, busy().body)
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            connection.respond(500, api_error(500, "Internal server error").body)

    def _authorized(self, request: Request) -> bool:
        key = self._config.api_key
        given = request.headers.get(b"authorization", b"")
        return key is None or secrets.compare_digest(given, f"Bearer {key}".encode())

    # --- calls that take a slot of the engine ---

    def _call(
        self, handler: Callable[[Request, Connection, Fault | None], None], request: Request, connection: Connection
    ) -> None:
        fault = self._faults.for_call()
        if fault and fault.reset_before_head:
            connection.reset()
        elif fault and fault.status is not None:
            raise api_error(fault.status, "The simulator was told to fail.")
        else:
            handler(request, connection, fault)

    def _chat(self, request: Request, connection: Connection, fault: Fault | None) -> None:
        body = self._decode(request, bodies.Chat)
        answer = chat_answer(body, self._config, *self._identity(body, request, "chatcmpl"))
        if body.stream:
            StreamedCall(connection, self._engine, answer, chat_script(answer), fault)
        else:
            WholeCall(connection, self._engine, answer, chat_json, fault)

    def _completion(self, request: Request, connection: Connection, fault: Fault | None) -> None:
        body = self._decode(request, bodies.Completion)
        answer = completion_answer(body, self._config, *self._identity(body, request, "cmpl"))
        if body.stream:
            StreamedCall(connection, self._engine, answer, completion_script(answer), fault)
        else:
            WholeCall(connection, self._engine, answer, completion_json, fault)

    def _embedding(self, request: Request, connection: Connection, fault: Fault | None) -> None:
        body = self._decode(request, bodies.Embedding, aliases=False)
        inputs = embedding_inputs(body)
        identity = self._identity(body, request, "embd")
        config = self._config
        self._pooled(
            inputs,
            lambda: embedding_json(inputs, body.encoding_format, config.embedding_dimensions, config.seed, identity),
            connection,
        )

    def _rerank(self, request: Request, connection: Connection, fault: Fault | None) -> None:
        body = self._decode(request, bodies.Rerank, aliases=False)
        texts = [utf8(text) for text in (body.query, *body.documents)]
        identity = self._identity(body, request, "rerank")
        self._pooled(texts, lambda: rerank_json(texts, body.top_n, self._config, identity), connection)

    def _score(self, request: Request, connection: Connection, fault: Fault | None) -> None:
        body = self._decode(request, bodies.Score, aliases=False)
        pairs = score_pairs(body)
        identity = self._identity(body, request, "score")
        texts = [text for pair in pairs for text in pair]
        self._pooled(texts, lambda: score_json(pairs, self._config, identity), connection)

    def _pooled(self, texts: list[bytes], answer: Callable[[], bytes], connection: Connection) -> None:
        """Answers when the engine has read the texts."""
        sequence = Sequence(b"".join(texts), 0, lambda: connection.respond(200, answer()))
        self._engine.submit(sequence)
        connection.on_gone = lambda: self._engine.cancel(sequence)

    def _decode(self, request: Request, kind: type[bodies.B], *, aliases: bool = True) -> bodies.B:
        body = decode(request.body, request.header(b"content-type"), kind)
        if body.model and body.model not in self._config.models:
            raise unknown_model(body.model, self._config.models, aliases=aliases)
        return body

    def _identity(self, body: bodies.Body, request: Request, prefix: str) -> tuple[str, str, int]:
        """The model that answers, the answer's id and its time. As in vLLM, the id is the request's, if it has one."""
        answer_id = request.header(b"x-request-id") or secrets.token_hex(8)
        return body.model or self._config.models[0], f"{prefix}-{answer_id}", int(time.time())

    # --- calls that are answered at once ---

    def _models(self, _: Request, connection: Connection) -> None:
        now = int(time.time())
        cards = [_model_card(name, self._config.max_model_len, now) for name in self._config.models]
        _json(connection, {"object": "list", "data": cards})

    def _tokenize(self, request: Request, connection: Connection) -> None:
        body = self._decode(request, bodies.Tokenize)
        if body.prompt is not None:
            text = utf8(body.prompt)
        elif body.messages is not None:
            text = chat_prompt(body.messages)
        else:
            raise invalid_field("body.prompt", "missing", "Field required", {})
        tokens = tokenize(text)
        strings = [detokenize([t]).decode(errors="replace") for t in tokens] if body.return_token_strs else None
        size = self._config.max_model_len
        _json(connection, {"count": len(tokens), "max_model_len": size, "tokens": tokens, "token_strs": strings})

    def _detokenize(self, request: Request, connection: Connection) -> None:
        body = self._decode(request, bodies.Detokenize)
        try:
            text = detokenize(body.tokens)
        except ValueError as error:
            raise api_error(400, str(error)) from None
        _json(connection, {"prompt": text.decode(errors="replace")})

    def _health(self, _: Request, connection: Connection) -> None:
        connection.respond(503 if self._faults.for_health() else 200, b"")

    def _metrics(self, _: Request, connection: Connection) -> None:
        text = exposition(self._engine, self._config.models[0])
        connection.respond(200, text, b"text/plain; version=0.0.4; charset=utf-8")

    def _show_faults(self, _: Request, connection: Connection) -> None:
        _json(connection, {"waiting": self._faults.waiting})

    def _add_fault(self, request: Request, connection: Connection) -> None:
        try:
            fault = msgspec.json.decode(request.body, type=Fault)
        except msgspec.DecodeError as error:
            raise api_error(400, f"not a fault: {error}") from None
        self._faults.add(fault)
        self._show_faults(request, connection)

    def _clear_faults(self, request: Request, connection: Connection) -> None:
        self._faults.clear()
        self._show_faults(request, connection)


def _json(connection: Connection, value: Any) -> None:
    connection.respond(200, msgspec.json.encode(value), JSON)


def _model_card(name: str, max_model_len: int, created: int) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": name,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [permission],
    }
