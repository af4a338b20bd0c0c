"""The routes that tell about the server: models, health, metrics, version."""

import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.server.errors import ApiError, JsonResponse
from langchain_saffron.server.load import Load
from langchain_saffron.server.metrics import EngineCollector

AllMetrics = Callable[[], Awaitable[str]]


def add_about_routes(
    app: FastAPI,
    engine: SaffronEngine,
    served: str,
    load: Load,
    replica: str | None = None,
    all_metrics: AllMetrics | None = None,
) -> None:
    """Add them to an application.

    Args:
        app: The application; its `state.metrics` gives this process' metrics from now on.
        engine: What is served.
        served: What it is called.
        load: The server's.
        replica: Which of several processes this is.
        all_metrics: Asks all of them for their metrics; `None` where this is the only one.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, load, served, replica))
    app.state.metrics = lambda: generate_latest(registry).decode()
    card = {
        "id": served,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "saffron",
        "max_model_len": engine.context,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """The model, by its name."""
        if model != served:
            raise ApiError(404, f"the model is not served here: ask for {served!r}", "model_not_found", "model")
        return card

    @app.get("/health")
    async def health() -> Response:
        """200 while requests are taken."""
        if load.draining or engine.closed:
            raise load.stopping()
        return JsonResponse({"status": "ok"})

    @app.get("/version")
    async def version_of() -> dict[str, str]:
        """Of the package."""
        return {"version": version("langchain-saffron")}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus' text format."""
        text = app.state.metrics() if all_metrics is None else await all_metrics()
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
