"""What stands before the replicas, in Ray Serve's HTTP proxy: one replica a conversation, and errors in our own words.

Serve's proxy speaks plain text where it has no answer, and cuts the connection where a replica dies in mid-answer. This
puts both into the words of `langchain_saffron.server.errors`. It runs in the proxy's process, which loads no model.
"""

import hashlib
import json
import os
import sys
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_saffron.server.errors import ApiError, busy, error_response, json_bytes, too_large
from langchain_saffron.server.settings import MEBIBYTE

# bytes of a body that are read to find its conversation; a longer one goes to any replica, as reading it takes the
# proxy's time before anybody has looked at the key
READ_BEFORE = MEBIBYTE
# characters of a plain prompt that stand for its conversation
OPENING = 256
DONE = b"data: [DONE]\n\n"
# by these Serve lets whoever sends them bound a request's time, and leave while it goes on
NOT_FOR_CLIENTS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
# names the variable with the bytes of a body that replicas take: Serve's proxy reads a body as fast as it comes, also
# while the request waits for a replica
MAX_BODY = "SAFFRON_PROXY_MAX_BODY"


class ReplicaProxy:
    """Middleware of Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        """Take what lies behind.

        Args:
            app: The proxy, which chooses a replica by the header named in `session_header`.
        """
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [one for one in scope["headers"] if one[0].lower() not in NOT_FOR_CLIENTS]
        receive = bounded = _Bounded(receive)
        if scope["method"] == "POST":
            receive = await _with_session(scope, receive)
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
            if refused is None:
                ended = message["type"] == "http.response.body" and not message.get("more_body", False)
                await send(message)

        await self._app(scope, receive, tell)
        if not begun:
            await error_response(too_large(bounded.most) if bounded.cut else refused or _lost())(scope, receive, send)
        elif streamed and not ended:
            last = b"data: " + json_bytes(_lost().body) + b"\n\n" + DONE
            await send({"type": "http.response.body", "body": last, "more_body": False})


class _Bounded:
    """`receive`, which hangs up on a body that is far too long; a little more lets the replica say so itself."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._read = receive, 0
        self.most = int(os.environ.get(MAX_BODY, sys.maxsize))
        self.cut = False

    async def __call__(self) -> Message:
        message: Message = {"type": "http.disconnect"} if self.cut else await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self.most + READ_BEFORE:
            self.cut = True
            return {"type": "http.disconnect"}
        return message


def middlewares() -> list[Middleware]:
    """For Serve's variable `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`: what its proxies wrap themselves in."""
    return [Middleware(ReplicaProxy)]


def session_header() -> str:
    """The header that names a conversation, in lower case."""
    return os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").lower()


def conversation(headers: Headers, path: str, body: bytes) -> str | None:
    """What all requests of a conversation have in common and few others have.

    A chat is its beginning, up to the first question, and who asks; so what replicas have cached of one tenant is asked
    for again where it lies.

    Args:
        headers: Of the request.
        path: Likewise.
        body: The whole of it.

    Returns:
        A name that tells nothing of the text; `None` where the body is none of a chat or completion.
    """
    try:
        asked: Any = json.loads(body)
        opening = _opening(asked["messages"]) if "messages" in asked else str(asked["prompt"])[:OPENING]
    # the replica says what is wrong with it
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    parts = [path, headers.get("authorization", ""), json.dumps(opening, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _opening(messages: list[dict[str, Any]]) -> list[Any]:
    opening: list[Any] = []
    for message in messages:
        opening.append([message["role"], message.get("content")])
        if message["role"] == "user":
            break
    return opening


async def _with_session(scope: Scope, receive: Receive) -> Receive:
    """Name a request's conversation in its headers, unless the client did; its body can be received once more."""
    headers = Headers(scope=scope)
    name = session_header()
    # proxies on the way may have changed what separates words, and Serve takes either
    if name.replace("_", "-") in {key.replace("_", "-") for key in headers}:
        return receive
    messages: list[Message] = []
    length, more = 0, True
    while more and length <= READ_BEFORE:
        message = await receive()
        messages.append(message)
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    if length <= READ_BEFORE:
        body = b"".join(message.get("body", b"") for message in messages)
        if (found := conversation(headers, scope["path"], body)) is not None:
            scope["headers"] = [*scope["headers"], (name.encode(), found.encode())]
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _in_our_words(status: int) -> ApiError:
    """What Serve means by a status: it has no application yet or any more, too many wait, or a replica failed."""
    if status == 404:
        return busy("no replica is there to answer: the server starts or stops; ask again later", "unavailable")
    if status == 503:
        return busy("too many requests wait already: ask again later", "overloaded")
    return _lost()


def _lost() -> ApiError:
    return busy("the replica that was to answer is gone: ask again", "replica_lost")
