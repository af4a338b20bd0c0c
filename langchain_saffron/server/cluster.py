"""Several replicas on this machine: a Ray of their own, Serve in it, and what happens when it is told to stop."""

import logging
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
from ray.serve.schema import LoggingConfig, ServeStatus

from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.runtime.ray_cluster import share, start_ray
from langchain_saffron.server.process import FAREWELL, KEEP_ALIVE
from langchain_saffron.server.proxy import MAX_BODY
from langchain_saffron.server.replicas import ASKED_IN, deployed
from langchain_saffron.server.sessions import share_secret
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.standing import max_wait

logger = logging.getLogger("langchain_saffron.server")

NAME = "saffron"
# variables of Serve by which its HTTP proxy is passed by, and with it what finds a conversation's replica
PAST_THE_PROXY = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS")
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
            SettingsError: The environment takes Serve's own proxy out of the way, or a variable of ours is wrong.
        """
        if past := [name for name in PAST_THE_PROXY if os.environ.get(name, "0") == "1"]:
            raise SettingsError(f"replicas: unset {', '.join(past)}, by which requests do not come through the proxy")
        # what a proxy finds wrong with it would be told nowhere
        max_wait()
        os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "langchain_saffron.server.proxy:middlewares"
        os.environ[MAX_BODY] = str(self._settings.max_body)
        share_secret()
        # another Ray on this machine, or the one that RAY_ADDRESS names, is for `serve deploy`
        start_ray("local")
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._told)
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=self._host, port=self._port, keep_alive_timeout_s=KEEP_ALIVE),
            logging_config=quiet,
        )
        app = deployed(options, self._settings, replicas, share(replicas, options.get("device")))
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            handle = serve.run(app, name=NAME, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            raise ModelLoadError(_why(str(error), serve.status())) from None
        # a handle learns of the replicas when it is first used: not only when it has to stop them
        self._ask(handle, "running")
        return handle

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


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _why(text: str, status: ServeStatus) -> str:
    """The error that kept a replica from starting, out of what Serve tells of it."""
    for application in status.applications.values():
        for deployment in application.deployments.values():
            if named := re.findall(r"^.*?langchain_saffron\.errors\.\w+: (.+)$", deployment.message, re.MULTILINE):
                return str(named[-1])
    return f"the replicas do not start: {' '.join(text.split())}; the log says more"
