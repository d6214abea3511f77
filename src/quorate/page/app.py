"""The routes of the status page: what a browser, a monitor or a script may ask a coordinator.

It lives in the coordinator's event loop and looks at its runs, which it never changes. Whoever
acts (`POST /act`) is an operator like any other: the engine decides.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from ssl import SSLContext, SSLObject, SSLSocket

import msgspec
from aiohttp import hdrs, web

from quorate.clock import Clock, SystemClock
from quorate.coordinator.process import Companion
from quorate.coordinator.server import CoordinatorServer
from quorate.errors import RendezvousConnectionError, RendezvousError, RendezvousLimitError
from quorate.page.access import Access, is_own_name
from quorate.page.acts import Act
from quorate.page.feed import Feed
from quorate.page.metrics import CONTENT_TYPE, exposition
from quorate.page.snapshots import Snapshots
from quorate.page.visitors import Visitors
from quorate.tls import TlsContexts
from quorate.undecodable import UNDECODABLE
from quorate.wire.messages import Done, Failed, History, Refused, Report, Request, Status

__all__ = ["Page", "page_on"]

# An engine that is storing answers afterwards; one whose ledger does not answer, not at all.
ANSWER_TIMEOUT_S = 5.0

# A viewer that reads nothing for so long is gone.
WRITE_TIMEOUT_S = 20.0

# Proxies end what is silent for a minute.
BEAT_S = 15.0

SHUTDOWN_TIMEOUT_S = 1.0

# What is posted is a few words.
BODY_BYTES_MAX = 16 * 1024

# Compressing more than this would keep agents waiting: it is done in another thread.
INLINE_BYTES_MAX = 4 * 1024

TYPES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    "page.js": "text/javascript",
    "model.js": "text/javascript",
    "feed.js": "text/javascript",
    "lanes.js": "text/javascript",
    "drawing.js": "text/javascript",
    "acts.js": "text/javascript",
}

# Nothing from elsewhere, nothing inline, in nobody's frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# For probes, which have no token; they tell nothing of the runs.
OPEN_PATHS = {"/", "/healthz", "/readyz", "/access", *(f"/{name}" for name in TYPES)}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """The page of one coordinator.

    Args:
        server: The coordinator.
        access: Who may look and act.
        names: By what names the page may be asked for without a token, besides addresses.
        clock: The time.
    """

    def __init__(
        self,
        server: CoordinatorServer,
        access: Access,
        names: Collection[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._server = server
        self._access = access
        self._names = {*names, socket.gethostname()}
        self._clock = clock or SystemClock()
        self._feed = Feed(server, self._clock)
        self._snapshots = Snapshots(self._clock)
        self._visitors = Visitors(self._clock)
        self._files = _files()

    @asynccontextmanager
    async def serve(
        self, listeners: Sequence[socket.socket], tls: TlsContexts | None = None
    ) -> AsyncIterator[None]:
        """Answer on some listening sockets for as long as the block lasts.

        Args:
            listeners: Bound, listening sockets.
            tls: What connections are secured with; `None` for plain ones.
        """
        secured = _secured(tls) if tls is not None else None
        runner = self._runner()
        await runner.setup()
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._feed.follow()),
            loop.create_task(self._visitors.watch(runner.server)),
        ]
        try:
            for listener in listeners:
                await web.SockSite(runner, listener, ssl_context=secured, backlog=128).start()
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._visitors.end_all(runner.server)
            await runner.cleanup()

    def _runner(self) -> web.AppRunner:
        return web.AppRunner(
            self._application(),
            access_log=None,
            # Whoever goes away is not answered any more, viewers above all.
            handler_cancellation=True,
            # A body is inflated before anybody looks who sends it, or how large it becomes.
            auto_decompress=False,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guarded], client_max_size=BODY_BYTES_MAX)
        router = application.router
        for name in TYPES:
            router.add_get(f"/{name}", self._file)
        router.add_get("/", self._file)
        router.add_get("/access", self._rights)
        router.add_get("/healthz", self._health)
        router.add_get("/readyz", self._readiness)
        router.add_get("/metrics", self._metrics)
        router.add_get("/status.json", self._status)
        router.add_get("/history.json", self._history)
        router.add_get("/timeline.json", self._timeline)
        router.add_get("/events", self._events, allow_head=False)
        router.add_post("/act", self._act)
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with self._visitors.busy(request.protocol):
            try:
                self._require_reader(request)
                response = await handler(request)
            except web.HTTPException as error:
                error.headers.update(HEADERS)
                raise
            except RendezvousLimitError as error:
                response = _refusal(503, str(error))
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

    def _require_reader(self, request: web.Request) -> None:
        if self._access.is_open and not is_own_name(request.host, self._names):
            raise _error(
                web.HTTPMisdirectedRequest,
                f"This page is not called '{request.host}'. Ask for it by an address or by the "
                f"name in --http, or give the coordinator a token.",
            )
        if request.path in OPEN_PATHS or self._access.may_read(_token(request)):
            return
        raise _error(
            web.HTTPUnauthorized,
            "This coordinator wants a token: send it as 'Authorization: Bearer TOKEN'.",
            {hdrs.WWW_AUTHENTICATE: "Bearer"},
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/") or "page.html"
        response = web.Response(body=self._files[name], content_type=TYPES[name], charset="utf-8")
        # Another release of quorate has another page.
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        return response

    async def _rights(self, request: web.Request) -> web.StreamResponse:
        token = _token(request)
        rights = {
            "read": self._access.may_read(token),
            "act": self._access.may_act(token),
            "operators": self._access.has_operators,
        }
        return _json(msgspec.json.encode(rights))

    async def _health(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(text="alive\n")

    async def _readiness(self, request: web.Request) -> web.StreamResponse:
        del request
        hindrance = self._server.hindrance()
        if hindrance:
            return _refusal(503, hindrance)
        return web.Response(text="ready: this coordinator decides\n")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        del request

        async def make() -> bytes:
            return exposition(self._server)

        body = await self._snapshots.get("metrics", make)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        run_id = request.query.get("run", "")

        async def make() -> bytes:
            return await self._ask_for(run_id, lambda id: Status(id, run_id))

        return await self._told(f"status {run_id}", make)

    async def _history(self, request: web.Request) -> web.StreamResponse:
        run_id = request.query.get("run", "")

        async def make() -> bytes:
            return await self._ask_for(run_id, lambda id: History(id, run_id))

        return await self._told(f"history {run_id}", make)

    async def _timeline(self, request: web.Request) -> web.StreamResponse:
        run_id = request.query.get("run", "")

        async def make() -> bytes:
            body = await self._feed.snapshot(run_id)
            if body is None:
                raise _unknown(run_id)
            return body

        # Made for all who ask for it at this version; the next may not be kept from anybody.
        name, version = self._feed.version(run_id)
        return await self._told(f"timeline {name} {version} {run_id}", make)

    async def _told(self, key: str, make: Callable[[], Awaitable[bytes]]) -> web.StreamResponse:
        try:
            return _json(await self._snapshots.get(key, make))
        except TimeoutError:
            return _refusal(503, "The ledger of this coordinator does not answer: try again.")
        except RendezvousConnectionError as error:
            return _refusal(503, str(error))
        except RendezvousError as error:
            return _refusal(404, str(error))

    async def _ask_for(self, run_id: str, make_request: Callable[[int], Request]) -> bytes:
        if run_id and run_id not in self._server.runs:
            raise _unknown(run_id)
        answer = await self._server.ask(run_id, make_request, ANSWER_TIMEOUT_S)
        if isinstance(answer, Failed):
            raise RendezvousError(answer.message)
        assert isinstance(answer, Report)
        # Megabytes are decompressed beside the loop.
        return await asyncio.to_thread(answer.text) if answer.compressed else answer.text()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        viewer = self._feed.attach(request.query.get("run", ""))
        try:
            response = web.StreamResponse(headers=HEADERS | {hdrs.CACHE_CONTROL: "no-store"})
            response.content_type = "text/event-stream"
            response.charset = "utf-8"
            await response.prepare(request)
            while True:
                news = await viewer.take(BEAT_S)
                await asyncio.wait_for(response.write(news), WRITE_TIMEOUT_S)
        except (ConnectionError, TimeoutError):
            return response
        finally:
            self._feed.detach(viewer)

    async def _act(self, request: web.Request) -> web.StreamResponse:
        self._require_operator(request)
        try:
            act = msgspec.json.decode(await request.read(), type=Act)
            message = act.request()
        except (*UNDECODABLE, ValueError) as error:
            return _refusal(400, f"This cannot be done: {error}.")
        try:
            answer = await self._server.ask(act.run, message, ANSWER_TIMEOUT_S)
        except (TimeoutError, RendezvousConnectionError):
            return _refusal(503, f"Nobody can act now: {self._server.hindrance() or 'try again'}.")
        if isinstance(answer, Failed | Refused):
            return _refusal(409, answer.message)
        text = answer.text if isinstance(answer, Done) else "done"
        return _json(msgspec.json.encode({"text": text}))

    def _require_operator(self, request: web.Request) -> None:
        """Refuse who is no operator, or comes from another site's page (CSRF)."""
        if not self._access.has_operators:
            raise _error(
                web.HTTPForbidden,
                "Nobody may act here: start the coordinator with --operator-token-file.",
            )
        if not self._access.may_act(_token(request)):
            raise _error(web.HTTPForbidden, "To act needs the operators' token.")
        origin = request.headers.get(hdrs.ORIGIN)
        foreign = origin is not None and origin.partition("://")[2] != request.host
        if foreign or request.headers.get("X-Quorate") != "act":
            raise _error(web.HTTPForbidden, "Only this page acts here: send 'X-Quorate: act'.")
        if request.content_type != "application/json":
            raise _error(web.HTTPUnsupportedMediaType, "Post application/json.")


@cache
def _files() -> dict[str, bytes]:
    return {name: (files("quorate.page") / name).read_bytes() for name in TYPES}


def page_on(
    listeners: Sequence[socket.socket],
    access: Access,
    names: Collection[str] = (),
    tls: TlsContexts | None = None,
) -> Companion:
    """Return a page for `quorate.coordinator.process.serve` to run beside a coordinator.

    Args:
        listeners: Bound, listening sockets for HTTP.
        access: Who may look and act.
        names: By what names it may be asked for without a token, besides addresses.
        tls: What connections are secured with; `None` for plain ones.
    """
    return lambda server: Page(server, access, names).serve(listeners, tls)


def _secured(tls: TlsContexts) -> SSLContext:
    """Return a context that hands each handshake on to the present one: files may change."""

    def hand_on(connection: SSLObject | SSLSocket, name: str | None, own: SSLContext) -> None:
        del name, own
        connection.context = tls.current()

    context = tls.current()
    context.sni_callback = hand_on
    return context


def _token(request: web.Request) -> str:
    kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _json(body: bytes) -> web.Response:
    response = web.Response(
        body=body, content_type="application/json", zlib_executor_size=INLINE_BYTES_MAX
    )
    response.enable_compression()
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _refusal(status: int, reason: str) -> web.Response:
    return web.Response(status=status, text=_line(reason), headers={hdrs.CACHE_CONTROL: "no-store"})


def _error(
    kind: type[web.HTTPException], reason: str, headers: dict[str, str] | None = None
) -> web.HTTPException:
    return kind(text=_line(reason), headers=headers)


def _unknown(run_id: str) -> RendezvousError:
    return RendezvousError(f"There is no run '{run_id}' here: /status.json names the runs.")


def _line(reason: str) -> str:
    """Return a reason as a line; it may quote a header that is not UTF-8."""
    return reason.encode(errors="backslashreplace").decode() + "\n"
