"""The routes that tell about the server: models, health, metrics, version."""

import time
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


def add_about_routes(app: FastAPI, engine: SaffronEngine, served: str, load: Load) -> None:
    """Add them to an application.

    Args:
        app: The application.
        engine: What is served.
        served: What it is called.
        load: The server's.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, load, served))
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
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
