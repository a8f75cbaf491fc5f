"""`python -m llmlab serve`: an endpoint that clients of OpenAI's HTTP interface talk to, on this machine only.

    client --HTTP--> one thread with tornado's loop --queue--> one thread with the engine (driver.py)
           <--SSE---                                <--tokens--

Nothing listens beyond loopback unless that is asked for in so many words. Each request is read strictly (protocol.py),
and limited in size, in tokens and in number; whoever hangs up is forgotten, and their blocks are free at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

from llmlab.arguments import flag, instance, string, whole
from llmlab.serving.driver import FAILED, Driver, Ticket
from llmlab.serving.engine import Engine
from llmlab.serving.protocol import DONE, ApiError, Asked, Limits, Response, Served, Writing, event, read_request
from llmlab.text.chat import END, START, chat_prompt

try:
    from tornado.httpserver import HTTPServer
    from tornado.iostream import StreamClosedError
    from tornado.netutil import bind_sockets
    from tornado.web import Application, RequestHandler, stream_request_body
except ImportError as error:  # it comes with Jupyter, and only a server needs it
    raise ImportError(
        "lab.serving.Server wants tornado, which comes with JupyterLab: pip install 'llmlab[lab]'"
    ) from error

ENDS = ("<|endoftext|>", END, "<|end_of_text|>", "<|eot_id|>", "</s>")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DRAINED = 16  # bodies of up to so many times the limit are read and thrown away, so that their sender hears why
SLOW_S = 30.0  # how long a body may take to come


class Server:
    """Serve one engine over HTTP, from threads of its own, until `close`; also a `with` block. `url`: where.

    name: what clients call the model.  tokenizer: to read prompts with; the engine's, if None.  chat: from messages to
    ids; where the tokenizer has ChatML's tokens, `lab.text.chat_prompt` with no system message of its own.  port: 0
    takes a free one.  host: an address of this machine; one that others can reach wants open_to_the_network=True too.
    Raises ValueError for what cannot be served, OSError for a port that is taken.
    """

    def __init__(
        self,
        engine: Engine,
        name: str = "model",
        *,
        tokenizer: Any = None,
        chat: Callable[[list[dict[str, str]]], list[int]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        open_to_the_network: bool = False,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ):
        instance("Server", "engine", engine, Engine)
        instance("Server", "limits", limits, Limits)
        whole("Server", "port", port, least=0, most=65535)
        self.host = check_host(host, open_to_the_network)
        if engine.world is not None and engine.world.size > 1:
            raise ValueError(
                "Server wants an engine of one process, got one of several ranks: they would need each request"
            )
        self.served = served_of(engine, string("Server", "name", name), tokenizer, chat)
        self.limits, self.open = limits, open_to_the_network
        self.under_way = 0  # answers, in HTTP's thread
        self.reading = ThreadPoolExecutor(1, "llmlab reading")  # a long prompt's tokens hold nobody else up
        sockets = bind_sockets(port, self.host)
        self.port = sockets[0].getsockname()[1]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"
        self.driver = Driver(engine)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(sockets, ready), name="llmlab server", daemon=True)
        self._thread.start()
        ready.wait()

    def __repr__(self) -> str:
        return f"Server({self.served.name!r} at {self.url})"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on everybody, cancel their answers, and end the threads."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self.driver.close()
        self.reading.shutdown()

    # --- HTTP's thread ------------------------------------------------------------------------------------------------

    def _serve(self, sockets: list[Any], ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen(sockets, ready))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _listen(self, sockets: list[Any], ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        given = {"server": self}
        routes: list[Any] = [
            (r"/v1/models", Models, given), (r"/v1/models/(.+)", Models, given), (r"/health", Health, given),
            (r"/v1/completions", Completions, {**given, "kind": "completions"}),
            (r"/v1/chat/completions", Completions, {**given, "kind": "chat"}),
        ]  # fmt: skip
        application = Application(routes, default_handler_class=Nothing, default_handler_args=given, log_function=quiet)
        logging.getLogger("tornado.general").setLevel(logging.ERROR)  # malformed requests are the sender's affair
        http = HTTPServer(
            application, max_body_size=self.limits.body_bytes, max_header_size=1 << 16, body_timeout=SLOW_S,
            idle_connection_timeout=SLOW_S,
        )  # fmt: skip
        http.add_sockets(sockets)
        ready.set()
        await self._stop.wait()
        http.stop()
        await http.close_all_connections()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def allows(self, host: str, origin: str | None) -> bool:
        """Whether a request was meant for this server: a web page that makes a browser ask here is none of ours."""
        if self.open:
            return True
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        own = {*LOOPBACK, "[::1]", self.host}
        return name in own and (origin is None or origin.split("//")[-1].rsplit(":", 1)[0] in own)


def quiet(handler: RequestHandler) -> None:
    """Print no line for each request."""


def check_host(host: str, open_to_the_network: bool) -> str:
    """Give the address to listen at. Raises ValueError for one that others reach, unless that is asked for."""
    flag("Server", "open_to_the_network", open_to_the_network)
    string("Server", "host", host)
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ValueError(f"Server wants an address such as 127.0.0.1 as host, got {host!r}") from None
    if not address.is_loopback and not open_to_the_network:
        raise ValueError(
            f"Server listens on this machine alone unless told otherwise, got host {host!r}, which others can reach: "
            "anybody there could use the model. If that is meant, say open_to_the_network=True "
            "(--open-to-the-network) as well"
        )
    return str(address)


def served_of(engine: Engine, name: str, tokenizer: Any, chat: Callable[..., list[int]] | None) -> Served:
    """Say what an engine offers over HTTP."""
    tokenizer = engine.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None or not hasattr(tokenizer, "encode"):
        raise ValueError("Server wants a tokenizer, which encodes and decodes: clients send texts; got none")
    specials = getattr(tokenizer, "specials", {})
    if chat is None and START in specials and END in specials:
        chat = partial(chat_prompt, tokenizer, system=None)
    ends = tuple(specials[end] for end in ENDS if end in specials)
    return Served(name, tokenizer.encode, tokenizer.decode, engine.config.max_seq, chat, ends)


# --- what answers at each address -------------------------------------------------------------------------------------


class Handler(RequestHandler):
    """What all addresses share: who may ask, and errors in OpenAI's shape."""

    def initialize(self, server: Server, kind: str = "") -> None:
        self.server, self.kind = server, kind

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.clear_header("Server")

    def prepare(self) -> None:
        if not self.server.allows(self.request.host, self.request.headers.get("Origin")):
            self.refuse(ApiError(403, "this server answers programs on its own machine", code="forbidden"))

    def refuse(self, error: ApiError) -> None:
        self.set_status(error.status)
        self.finish(json.dumps(error.body()))

    def write_error(self, status_code: int, **more: Any) -> None:
        kind = "invalid_request_error" if status_code < 500 else "server_error"
        said = "this address answers no " + str(self.request.method) if status_code == 405 else self._reason
        self.refuse(ApiError(status_code, said, kind=kind))


class Nothing(Handler):
    def prepare(self) -> None:
        self.refuse(ApiError(404, f"nothing is at {self.request.path[:200]!r}", code="unknown_url"))


class Health(Handler):
    def get(self) -> None:
        if self.server.driver.failure:
            return self.refuse(_failed(self.server.driver.failure))
        self.finish(json.dumps({"status": "ok"}))


class Models(Handler):
    def get(self, name: str | None = None) -> None:
        model = {"id": self.server.served.name, "object": "model", "created": 0, "owned_by": "llmlab"}
        if name is None:
            self.finish(json.dumps({"object": "list", "data": [model]}))
        elif name == model["id"]:
            self.finish(json.dumps(model))
        else:
            self.refuse(ApiError(404, f"the model {name[:80]!r} is not here", "model", "model_not_found"))


@stream_request_body
class Completions(Handler):
    """Texts and chats: reads the body within limits, asks the engine, and passes on what comes."""

    def initialize(self, server: Server, kind: str = "") -> None:
        super().initialize(server, kind)
        self.body, self.too_large = bytearray(), False
        self.ticket: Ticket | None = None
        self.told: asyncio.Queue[tuple[int, int, str | None] | None] = asyncio.Queue()
        self.gone = False

    def prepare(self) -> None:
        super().prepare()
        most = self.server.limits.body_bytes
        self.request.connection.set_max_body_size(DRAINED * most)  # type: ignore[union-attr]
        if not self._finished and int(self.request.headers.get("Content-Length", 0) or 0) > most:
            self.refuse_size()

    def data_received(self, chunk: bytes) -> None:
        if len(self.body) + len(chunk) <= self.server.limits.body_bytes:
            self.body += chunk
        elif not self._finished:
            self.refuse_size()

    def refuse_size(self) -> None:
        most = self.server.limits.body_bytes
        self.set_header("Connection", "close")
        self.refuse(ApiError(413, f"a request wants a body of at most {most:,} bytes", code="request_too_large"))

    def on_connection_close(self) -> None:
        super().on_connection_close()  # who waits for the rest of the body need not
        self.gone = True
        self.told.put_nowait(None)

    async def post(self) -> None:
        if self._finished:
            return
        try:
            kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, f"the body wants Content-Type application/json, got {kind[:80]!r}")
            await self.answer()
        except ApiError as error:
            if not self._headers_written:
                self.refuse(error)
            else:  # in the middle of a stream: the status is sent
                self.write(event(error.body()))
                self.finish()
        except StreamClosedError:
            return  # they hung up

    async def answer(self) -> None:
        """Answer one request. Raises ApiError; whatever happens, the engine is left with nothing of it."""
        server, loop = self.server, asyncio.get_running_loop()
        if server.driver.failure:
            raise _failed(server.driver.failure)
        reading = partial(read_request, self.kind, bytes(self.body), server.served, server.limits)
        try:
            asked = await loop.run_in_executor(server.reading, reading)
            count = len(asked.requests)
            if server.under_way + count > server.limits.concurrent:
                message = f"at most {server.limits.concurrent} answers are under way at once: try again later"
                raise ApiError(429, message, code="rate_limit_exceeded", kind="rate_limit_error")
            self.ticket = server.driver.submit(asked.requests, self.tell(loop))
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        server.under_way += count
        try:
            await (self.stream(asked) if asked.stream else self.collect(asked))
        finally:
            server.under_way -= count
            server.driver.cancel(self.ticket)

    def tell(self, loop: asyncio.AbstractEventLoop) -> Callable[[int, int, str | None], None]:
        """Make what the engine's thread calls with each token."""

        def tell(choice: int, token: int, reason: str | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server is on its way out
                loop.call_soon_threadsafe(self.told.put_nowait, (choice, token, reason))

        return tell

    async def collect(self, asked: Asked) -> None:
        writings = self.writings(asked)
        while not all(w.reason for w in writings):
            await self.take(writings)
        self.finish(json.dumps(Response(asked, self.server.served).whole(writings)))

    async def stream(self, asked: Asked) -> None:
        writings, response = self.writings(asked), Response(asked, self.server.served)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        for i in range(len(writings)):
            if (first := response.first(i)) is not None:
                self.write(event(first))
        await self.flush()
        while not all(w.reason for w in writings):
            choice, text = await self.take(writings)
            if text or writings[choice].reason:
                self.write(event(response.part(choice, text, writings[choice].reason)))
                await self.flush()  # a slow reader holds up nobody but itself
        if asked.usage_in_stream:
            self.write(event(response.last(writings)))
        self.write(DONE)
        self.finish()

    def writings(self, asked: Asked) -> list[Writing]:
        return [Writing(self.server.served.decode, asked.stops, self.server.served.ends) for _ in asked.requests]

    async def take(self, writings: list[Writing]) -> tuple[int, str]:
        """Wait for a token; give its choice and what text can be shown since."""
        while True:
            told = await self.told.get()
            if told is None or self.gone:
                raise StreamClosedError
            choice, token, reason = told
            if token == FAILED:
                raise _failed(reason or "")
            if (
                writings[choice].reason is None
            ):  # else of an answer that a stop had ended, before the engine heard of it
                text = writings[choice].add(token, reason)
                if writings[choice].reason and reason is None:
                    assert self.ticket is not None
                    self.server.driver.cancel(self.ticket, choice)
                return choice, text


def _failed(why: str) -> ApiError:
    return ApiError(500, f"the engine has failed: {why[:300]}", code="engine_failed", kind="server_error")
