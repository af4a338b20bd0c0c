"""Several replicas on this machine: a Ray of their own, Serve in it, and what happens when it is told to stop."""

import logging
import math
import os
import re
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from langchain_saffron.errors import EngineFailedError, ModelLoadError
from langchain_saffron.server.process import FAREWELL, KEEP_ALIVE
from langchain_saffron.server.replicas import ASKED_IN, deployed
from langchain_saffron.server.settings import MEBIBYTE, ServerSettings

logger = logging.getLogger("langchain_saffron.server")

NAME = "saffron"
# nothing of size goes through Ray's store; this is about the least that it takes
STORE = 80 * MEBIBYTE
# seconds between two looks at what still runs
LOOK = 0.2


class ReplicaCluster:
    """A local Ray that serves, from `start` to a signal."""

    def __init__(self, host: str, port: int, settings: ServerSettings) -> None:
        """Nothing is started yet.

        Args:
            host: Where to listen.
            port: Likewise; 0 for any that is free.
            settings: How each replica serves.
        """
        self._host, self._port, self._settings = host, port or _free_port(host), settings
        self._stop = threading.Event()

    def start(self, options: dict[str, Any], replicas: int) -> DeploymentHandle[Any]:
        """Start Ray, the proxy and the replicas, and wait until all of them answer.

        Args:
            options: Fields of `ChatSaffron`.
            replicas: How many there are.

        Raises:
            ModelLoadError: The models cannot be loaded.
            EngineFailedError: Ray does not start.
        """
        os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "langchain_saffron.server.proxy:middlewares"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            # another Ray on this machine, or the one that RAY_ADDRESS names, is for `serve deploy`
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=STORE,
                logging_level=logging.ERROR,
                namespace=NAME,
            )
        except Exception as error:
            raise EngineFailedError(f"Ray did not start: {error}") from error
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._told)
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=self._host, port=self._port, keep_alive_timeout_s=KEEP_ALIVE),
            logging_config=quiet,
        )
        resources = _share(replicas, str(options.get("device") or ""))
        app = deployed(options, self._settings, replicas, resources)
        try:
            return serve.run(app, name=NAME, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            raise ModelLoadError(_why(str(error))) from None

    def wait(self) -> None:
        """Until a signal says to stop."""
        while not self._stop.wait(1):
            pass

    def drain(self, handle: DeploymentHandle[Any]) -> None:
        """Let running answers end, those that take too long with an error, and nothing else in."""
        asked = time.monotonic()
        while (running := self._ask(handle, "drain")) and time.monotonic() - asked < self._settings.shutdown_timeout:
            time.sleep(LOOK)
        if running:
            self._ask(handle, "expire")
            time.sleep(FAREWELL)

    def close(self) -> None:
        """Stop Serve and Ray, with all their processes."""
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def _ask(self, handle: DeploymentHandle[Any], what: str) -> int:
        """Call a method of all replicas; the sum of what those that live return."""
        try:
            found = handle.broadcast(what).results(timeout_s=ASKED_IN, return_exceptions=True)
        except TimeoutError:
            # they are there, and too busy to say so
            return 1
        return sum(one for one in found if isinstance(one, int))

    def _told(self, sig: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            # the processes of a local Ray end with the one that started it
            os._exit(128 + sig)
        self._stop.set()


def serve_replicas(options: dict[str, Any], settings: ServerSettings, replicas: int, host: str, port: int) -> None:
    """Serve until a signal says to stop.

    Args:
        options: Fields of `ChatSaffron`.
        settings: How each replica serves.
        replicas: How many there are.
        host: Where to listen.
        port: Likewise; 0 for any that is free.

    Raises:
        ModelLoadError: The models cannot be loaded.
        EngineFailedError: Ray does not start.
    """
    cluster = ReplicaCluster(host, port, settings)
    try:
        handle = cluster.start(options, replicas)
        logger.info("%d replicas running on %s (a signal lets running answers end)", replicas, cluster.url)
        cluster.wait()
        cluster.drain(handle)
    finally:
        cluster.close()


def _share(replicas: int, device: str) -> dict[str, float]:
    """An even share of this machine for each replica: Ray sets its threads by that, and which GPU it sees."""
    found = ray.cluster_resources()
    cpus, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
    share: dict[str, float] = {"num_cpus": cpus // replicas or cpus / replicas}
    if gpus and not device.startswith("cpu"):
        # one of its own, or as many as have to on each
        share["num_gpus"] = 1.0 if gpus >= replicas else 1 / math.ceil(replicas / gpus)
    return share


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _why(text: str) -> str:
    """The error that kept a replica from starting, out of what Serve tells of it."""
    named = re.findall(r"^\s*langchain_saffron\.errors\.\w+: (.+)$", text, re.MULTILINE)
    return named[-1] if named else f"the replicas do not start: {text.strip().splitlines()[-1]}"
