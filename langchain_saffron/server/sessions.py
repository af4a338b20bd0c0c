"""Which conversation a request belongs to: a name by which Ray Serve finds the replica that has read its beginning.

What the name is made of is nobody's business who sees it in a header or a log: it is keyed with a secret, that all
proxies of a deployment have to share, as each of them has to come to the same name.
"""

import hmac
import json
import os
import secrets
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from langchain_saffron.server.settings import MEBIBYTE

# bytes of a body that are read to find its conversation; a longer one goes to any replica, as reading it takes the
# proxy's time before anybody has looked at the key
READ_BEFORE = MEBIBYTE
# characters of a plain prompt that stand for its conversation
OPENING = 256
# names the variable with the secret; `saffron serve` sets it for the processes of its own Ray
SECRET = "SAFFRON_PROXY_SECRET"
# where it is not set, names hold within this process
_own_secret = secrets.token_hex(32)


def session_header() -> str:
    """The header that names a conversation, in lower case."""
    return os.environ.get("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id").lower()


def share_secret() -> None:
    """Have all processes that are started from here on come to the same names, unless the operator's secret does."""
    os.environ[SECRET] = _secret()


def conversation(headers: Headers, path: str, body: bytes) -> str | None:
    """What all requests of a conversation have in common and few others have.

    A chat is its beginning, up to the first question, and who asks; so what replicas have cached of one tenant is asked
    for again where it lies.

    Args:
        headers: Of the request.
        path: Likewise.
        body: The whole of it.

    Returns:
        A name that tells nothing of text and key, not even to whoever guesses them: HMAC-SHA256 under the secret.
        `None` where the body is none of a chat or completion.
    """
    try:
        asked: Any = json.loads(body)
        opening = _opening(asked["messages"]) if "messages" in asked else str(asked["prompt"])[:OPENING]
    # the replica says what is wrong with it
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    parts = json.dumps([path, headers.get("authorization", ""), opening], sort_keys=True)
    return hmac.new(_secret().encode(), parts.encode(), "sha256").hexdigest()


async def with_session(scope: Scope, receive: Receive) -> Receive:
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


def _secret() -> str:
    # an empty one would be none
    return os.environ.get(SECRET) or _own_secret


def _opening(messages: list[dict[str, Any]]) -> list[Any]:
    opening: list[Any] = []
    for message in messages:
        opening.append([message["role"], message.get("content")])
        if message["role"] == "user":
            break
    return opening
