"""The server as a Ray Serve application: the same endpoint in several processes, each with its own models.

`saffron serve --replicas N` runs it on one machine; a configuration file of `serve deploy` names `application` here.
"""

import logging
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from fastapi import FastAPI
from pydantic import ConfigDict, TypeAdapter, ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from langchain_saffron.chat_models import ChatSaffron
from langchain_saffron.errors import SettingsError
from langchain_saffron.server.app import create_app
from langchain_saffron.server.load import Load
from langchain_saffron.server.metrics import merged
from langchain_saffron.server.process import FAREWELL
from langchain_saffron.server.rules import Rules
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.tenants import keys_in

# requests of one session go to one replica, while it takes any
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# seconds for a question to all replicas
ASKED_IN = 2.0


class SaffronReplica:
    """One process that serves: an engine, and the application around it."""

    def __init__(self, options: dict[str, Any], settings: ServerSettings) -> None:
        """Load the models.

        Args:
            options: Fields of `ChatSaffron`.
            settings: How to serve.

        Raises:
            ModelLoadError: The model cannot be loaded.
        """
        warnings.filterwarnings("ignore", message="chat_template_kwargs: |no model= was given")
        logging.getLogger("langchain_saffron.server").setLevel(logging.INFO)
        chat = ChatSaffron(**options)
        self._context = serve.get_replica_context()
        self._app = create_app(chat, settings, str(self._context.rank.rank), self._all_metrics)
        self._engine = chat.load()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve asks for once the replica is made."""
        return self._app

    async def check_health(self) -> None:
        """Fail where the engine has come to its end: Serve starts another replica then."""
        if self._engine.closed:
            raise RuntimeError("the engine is closed")

    async def running(self) -> int:
        """How many requests there are."""
        return self._load.requests

    async def drain(self) -> int:
        """Let no more requests in; how many there are still."""
        self._load.draining = True
        return self._load.requests

    async def expire(self) -> None:
        """End those that are still running, with an error."""
        self._load.expired.set()

    async def metrics(self) -> str:
        """Of this replica."""
        return str(self._app.state.metrics())

    async def _all_metrics(self) -> str:
        """Of all replicas that can be asked."""
        handle = serve.get_deployment_handle(self._context.deployment, self._context.app_name)
        found = await handle.broadcast("metrics").results_async(timeout_s=ASKED_IN, return_exceptions=True)
        return merged([text for text in found if isinstance(text, str)])

    @property
    def _load(self) -> Load:
        load: Load = self._app.state.load
        return load


DEPLOYMENT = serve.deployment(health_check_period_s=2, max_constructor_retry_count=2)(serve.ingress()(SaffronReplica))


def application(args: dict[str, Any]) -> Application:
    """The application, for `serve run`, `serve deploy` and `serve.run`.

    Args:
        args: Fields of `ServerSettings` (`rules` and `audit_log` as paths, and `api_key_file` in place of keys), and of
            `ChatSaffron` for the rest; `replicas` and what Ray gives to each (`num_cpus`, `num_gpus`).

    Raises:
        SettingsError: A value cannot work.
        ValidationError: The same, of a field of `ChatSaffron`.
    """
    ours = {field.name for field in fields(ServerSettings)}
    if "api_keys" in args:
        raise SettingsError("api_keys: Ray shows what a configuration holds; put the keys into an api_key_file")
    options = {name: value for name, value in args.items() if value is not None}
    replicas = int(options.pop("replicas", 1))
    resources: dict[str, float] = {}
    for name in ("num_cpus", "num_gpus"):
        if name in options:
            resources[name] = float(options.pop(name))
    given = {name: options.pop(name) for name in ours & options.keys()}
    if (file := options.pop("api_key_file", None)) is not None:
        given["api_keys"] = tuple(keys_in(Path(file)))
    if "rules" in given:
        given["rules"] = Rules.read(Path(given["rules"]))
    if "audit_log" in given:
        given["audit_log"] = Path(given["audit_log"])
    hints = get_type_hints(ServerSettings)
    for name, value in given.items():
        try:
            # `serve run` gives numbers as text
            given[name] = TypeAdapter(hints[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
                value
            )
        except ValidationError as error:
            raise SettingsError(f"{name}: {error.errors()[0]['msg']}") from None
    # YAML 1.1 takes `off` for a truth value
    if options.get("effort") is False:
        options["effort"] = "off"
    # a mistake should be told here, not by every replica
    ChatSaffron(**options)
    return deployed(options, ServerSettings(**given), replicas, resources)


def deployed(
    options: dict[str, Any], settings: ServerSettings, replicas: int, resources: dict[str, float]
) -> Application:
    """The application of settings that were checked.

    Args:
        options: Fields of `ChatSaffron`.
        settings: How each replica serves.
        replicas: How many there are.
        resources: What Ray gives to each, such as `num_cpus`.

    Raises:
        SettingsError: There is no such number of replicas.
    """
    if replicas < 1:
        raise SettingsError(f"replicas: at least 1 is needed, not {replicas}")
    most = settings.max_running + settings.max_queue
    deployment = DEPLOYMENT.options(
        num_replicas=replicas,
        ray_actor_options=resources or {"num_cpus": 1},
        # what a replica's own gate lets in; past that, the next replica is asked, and then the proxy lets wait
        max_ongoing_requests=most,
        max_queued_requests=most,
        graceful_shutdown_timeout_s=settings.shutdown_timeout + FAREWELL,
        graceful_shutdown_wait_loop_s=0.5,
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": max(replicas - 1, 2)}
        ),
    )
    return deployment.bind(options, settings)
