"""Answers on their way to a client that may leave: whole, or as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from langchain_saffron.server.errors import api_error, error_response, json_bytes
from langchain_saffron.server.load import Load

Events = AsyncGenerator[dict[str, Any]]
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
# nobody reads it: nginx's word for a client that has left
CLIENT_CLOSED = 499


class ClientGoneError(Exception):
    """The client has left."""


class _End(Exception):
    """There are no more events."""


class Exchange:
    """What an answer says, and what else happens meanwhile: the client leaves, the server has to stop.

    A context: at its end, or where any of that happens, the search behind the answer is stopped.
    """

    def __init__(self, events: Events, receive: Receive, load: Load) -> None:
        """Take the sources.

        Args:
            events: The answer.
            receive: The client, whose body was read.
            load: The server.
        """
        self._items: asyncio.Queue[dict[str, Any] | BaseException] = asyncio.Queue()
        self._events, self._receive, self._load = events, receive, load
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        sources = self._answer(self._events), self._leaving(self._receive), self._stopping(self._load)
        self._tasks = [asyncio.create_task(source) for source in sources]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, where: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        # `gather` would hide who cancelled this, and a host's cancel scope would not know its own
        await asyncio.wait(self._tasks)

    async def next(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next event; `None` where there was none for so long.

        Raises:
            _End: There are no more.
            ClientGoneError: Nobody listens.
            Exception: What ended the answer.
        """
        try:
            async with asyncio.timeout(seconds):
                item = await self._items.get()
        except TimeoutError:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    async def _answer(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._items.put_nowait(event)
        except Exception as error:
            self._items.put_nowait(error)
        else:
            self._items.put_nowait(_End())

    async def _leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._items.put_nowait(ClientGoneError())

    async def _stopping(self, load: Load) -> None:
        await load.expired.wait()
        self._items.put_nowait(load.stopping())


class EventStream(Response):
    """Server-sent events, `[DONE]` last.

    Nothing is sent before the first event: what is wrong with a request has a status of its own until then.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, load: Load, ping_seconds: float) -> None:
        """Take the events.

        Args:
            events: What to send.
            load: The server's.
            ping_seconds: After so long without an event, a comment is sent.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._load, self._ping = events, load, ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        begun, ended = False, False
        async with Exchange(self._events, receive, self._load) as exchange:
            while not ended:
                try:
                    event = await exchange.next(self._ping)
                    piece = PING if event is None else b"data: " + json_bytes(event) + b"\n\n"
                except _End:
                    piece, ended = DONE, True
                except ClientGoneError:
                    return
                except Exception as error:
                    if not begun:
                        await error_response(error)(scope, receive, send)
                        return
                    piece, ended = b"data: " + json_bytes(api_error(error).body) + b"\n\n" + DONE, True
                if not begun:
                    begun = True
                    start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                    await send(start)
                await send({"type": "http.response.body", "body": piece, "more_body": not ended})


async def wait_for(answer: Coroutine[Any, Any, dict[str, Any]], receive: Receive, load: Load) -> dict[str, Any] | None:
    """A whole answer; `None` where the client left before there was one, which stops its search.

    Args:
        answer: What makes it.
        receive: The client, whose body was read.
        load: The server's.
    """

    async def events() -> Events:
        yield await answer

    async with Exchange(events(), receive, load) as exchange:
        try:
            return await exchange.next()
        except ClientGoneError:
            return None
