"""The gate before all routes: key, rate, place in the queue and size of a request, before anything of it is read."""

import math
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_saffron.server.errors import ApiError, error_response, too_large
from langchain_saffron.server.load import Load
from langchain_saffron.server.rate_limit import RateLimit
from langchain_saffron.server.tenants import KeyRing

# what needs no key, as it neither costs anything nor tells of what was asked; a list of what does would let in
# whatever it forgets, or what is mounted below another path
OPEN = frozenset({"/health", "/metrics", "/version", "/openapi.json"})
TENANT = "saffron_tenant"


class Gate:
    """Middleware that lets requests in, and makes an answer of every error that nobody caught."""

    def __init__(self, app: ASGIApp, keys: KeyRing, rate: RateLimit, load: Load, max_body: int) -> None:
        """Take what decides.

        Args:
            app: What lies behind the gate.
            keys: Who is let in.
            rate: How often.
            load: How many at a time.
            max_body: Bytes of a body.
        """
        self._app, self._keys, self._rate, self._load, self._max_body = app, keys, rate, load, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def tell(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._let_in(scope, receive, tell)
        except Exception as error:
            # told in any case: that logs it
            response = error_response(error)
            if not begun:
                await response(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"].removeprefix(scope.get("root_path", "")) in OPEN:
            await self._app(scope, self._limited(headers, receive), send)
            return
        try:
            tenant = self._keys.tenant(headers.get("authorization"))
        except ApiError as error:
            raise self._load.turned_away("invalid_key", error) from None
        # what lies behind finds it
        scope.setdefault("state", {})[TENANT] = tenant
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if wait := self._rate.take(tenant):
            raise self._load.turned_away("rate_limit", _too_often(wait))
        with self._load.place():
            await self._app(scope, self._limited(headers, receive), send)

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """`receive`, which ends a body that is too long.

        Raises:
            ApiError: 413, also from what is returned.
        """
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > self._max_body:
            raise self._too_large()
        read = 0

        async def count() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise self._too_large()
            return message

        return count

    def _too_large(self) -> ApiError:
        return self._load.turned_away("too_large", too_large(self._max_body))


def _too_often(wait: float) -> ApiError:
    after = {"Retry-After": str(math.ceil(wait))}
    text = f"too many requests with this key: ask again in {math.ceil(wait)} s"
    return ApiError(429, text, "rate_limit_exceeded", kind="rate_limit_error", headers=after)


def tenant_of(state: Any) -> str:
    """The tenant of a request that came through the gate, from its state."""
    return str(getattr(state, TENANT))
