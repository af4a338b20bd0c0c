"""The server as a process: uvicorn, and what it does when it is told to stop."""

import logging
import os
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from langchain_saffron.errors import SettingsError
from langchain_saffron.server.load import Load

logger = logging.getLogger("langchain_saffron.server")

# seconds that answers which have to end get to say so
FAREWELL = 2.0
# a client's idle connection may last longer than its own pool keeps it
KEEP_ALIVE = 65


class DrainingServer(uvicorn.Server):
    """uvicorn, which at the first signal lets running answers come to their end and at a second one stops at once."""

    def __init__(self, app: FastAPI, host: str, port: int, shutdown_timeout: float, log_level: str = "info") -> None:
        """Nothing is served yet; `run` serves.

        Args:
            app: Of `create_app`.
            host: Where to listen.
            port: Likewise; 0 for any that is free.
            shutdown_timeout: Seconds that running answers get.
            log_level: uvicorn's.
        """
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level=log_level,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(FAREWELL),
        )
        super().__init__(config)
        self._load: Load = app.state.load
        self._shutdown_timeout = shutdown_timeout
        self._asked: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self._asked is not None:
            sys.stderr.flush()
            # threads and searches may be anywhere: a second signal waits for none of them
            os._exit(128 + sig)
        self._asked = time.monotonic()
        self._load.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether it is time to stop."""
        if self._asked is not None:
            spent = time.monotonic() - self._asked
            if spent >= self._shutdown_timeout and self._load.requests:
                self._load.expired.set()
            if not self._load.requests or spent >= self._shutdown_timeout + FAREWELL:
                self.should_exit = True
        return await super().on_tick(counter)


def check_port(host: str, port: int) -> None:
    """See, before any weights are read, whether a server could listen there.

    Raises:
        SettingsError: It could not.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError:
        raise _taken(host, port) from None


def serve(app: FastAPI, host: str, port: int, shutdown_timeout: float) -> None:
    """Serve until a signal says to stop.

    Args:
        app: Of `create_app`.
        host: Where to listen.
        port: Likewise; 0 for any that is free.
        shutdown_timeout: Seconds that running answers get to end in.

    Raises:
        SettingsError: Nothing can listen there.
    """
    server = DrainingServer(app, host, port, shutdown_timeout)
    try:
        server.run()
    except SystemExit as error:
        # uvicorn's way of saying so, after a line in the log
        if error.code:
            raise _taken(host, port) from None


def _taken(host: str, port: int) -> SettingsError:
    return SettingsError(f"port: the server cannot listen on {host}:{port}; choose another by --port")
