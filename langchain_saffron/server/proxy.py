"""What stands before the replicas, in Ray Serve's HTTP proxy: one replica a conversation, and errors in our own words.

Serve's proxy speaks plain text where it has no answer, and cuts the connection where a replica dies in mid-answer. This
puts both into the words of `langchain_saffron.server.errors`. It runs in the proxy's process, which loads no model.
"""

import asyncio
import os
import sys

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_saffron.server.errors import ApiError, busy, error_response, json_bytes, too_large
from langchain_saffron.server.sessions import READ_BEFORE, with_session
from langchain_saffron.server.standing import Standing

DONE = b"data: [DONE]\n\n"
# by these Serve lets whoever sends them bound a request's time, and leave while it goes on
NOT_FOR_CLIENTS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
# names the variable with the bytes of a body that replicas take: Serve's proxy reads a body as fast as it comes, also
# while the request waits for a replica
MAX_BODY = "SAFFRON_PROXY_MAX_BODY"


class ReplicaProxy:
    """Middleware of Serve's proxy."""

    def __init__(self, app: ASGIApp, standing: Standing | None = None) -> None:
        """Take what lies behind.

        Args:
            app: The proxy, which chooses a replica by the header named in `session_header`.
            standing: Knows whether there is any replica; `None` asks Serve.
        """
        self._app, self._standing = app, standing or Standing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [one for one in scope["headers"] if one[0].lower() not in NOT_FOR_CLIENTS]
        receive = bounded = _Bounded(receive)
        if scope["method"] == "POST":
            receive = await with_session(scope, receive)
        begun = streamed = ended = False
        refused: ApiError | None = None

        async def tell(message: Message) -> None:
            nonlocal begun, streamed, ended, refused
            if message["type"] == "http.response.start" and not begun:
                kind = Headers(raw=message["headers"]).get("content-type", "")
                # a replica's own errors are JSON: this one is Serve's
                if message["status"] >= 400 and not kind.startswith("application/json"):
                    refused = _in_our_words(message["status"])
                    return
                begun, streamed = True, kind.startswith("text/event-stream")
                watching.cancel()
            if refused is None:
                ended = message["type"] == "http.response.body" and not message.get("more_body", False)
                await send(message)

        async def watch() -> None:
            await self._standing.none_for_long()
            bounded.hang_up(busy("no replica is there to answer: ask again later", "unavailable"))

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, receive, tell)
        finally:
            watching.cancel()
        if not begun:
            await error_response(bounded.why or refused or _lost())(scope, receive, send)
        elif streamed and not ended:
            last = b"data: " + json_bytes(_lost().body) + b"\n\n" + DONE
            await send({"type": "http.response.body", "body": last, "more_body": False})


class _Bounded:
    """`receive`, which can hang up, as on a body that is far too long; a little more lets the replica say so itself."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._read = receive, 0
        self._most = int(os.environ.get(MAX_BODY, sys.maxsize))
        self._hung_up = asyncio.Event()
        self.why: ApiError | None = None

    async def __call__(self) -> Message:
        hung_up = asyncio.ensure_future(self._hung_up.wait())
        received = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((hung_up, received), return_when=asyncio.FIRST_COMPLETED)
            if self.why is None:
                message = received.result()
                self._read += len(message.get("body", b""))
                if self._read <= self._most + READ_BEFORE:
                    return message
                self.hang_up(too_large(self._most))
            return {"type": "http.disconnect"}
        finally:
            hung_up.cancel()
            received.cancel()

    def hang_up(self, why: ApiError) -> None:
        """From now on there is no client, as far as what lies behind can see."""
        if self.why is None:
            self.why = why
            self._hung_up.set()


def middlewares() -> list[Middleware]:
    """For Serve's variable `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`: what its proxies wrap themselves in."""
    return [Middleware(ReplicaProxy)]


def _in_our_words(status: int) -> ApiError:
    """What Serve means by a status: it has no application yet or any more, too many wait, or a replica failed."""
    if status == 404:
        return busy("no replica is there to answer: the server starts or stops; ask again later", "unavailable")
    if status == 503:
        return busy("too many requests wait already: ask again later", "overloaded")
    return _lost()


def _lost() -> ApiError:
    return busy("the replica that was to answer is gone: ask again", "replica_lost")
