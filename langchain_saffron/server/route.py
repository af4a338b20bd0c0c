"""What the routes have in common: how a request comes in, and how its answer goes out."""

import logging
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.interface.base import SaffronFields
from langchain_saffron.server.errors import ApiError, JsonResponse
from langchain_saffron.server.gate import tenant_of
from langchain_saffron.server.load import Load
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.streaming import CLIENT_CLOSED, Events, EventStream, wait_for
from langchain_saffron.server.wire import Decoding

logger = logging.getLogger("langchain_saffron.server")

Model = TypeVar("Model", bound=SaffronFields)
Asked = TypeVar("Asked", bound=Decoding)


class Route(ABC, Generic[Model, Asked]):
    """Answers requests of one kind.

    Attributes:
        prompt: The field of a request that holds what is asked.
    """

    prompt: str

    def __init__(self, model: Model, served: str, load: Load, settings: ServerSettings) -> None:
        """Take what answers.

        Args:
            model: The chat model or LLM, with the operator's settings.
            served: What it is called.
            load: The server's.
            settings: The server's.
        """
        self._model, self._served, self._load, self._settings = model, served, load, settings

    async def respond(self, asked: Asked, request: Request) -> Response:
        """Answer a request, whole or as a stream."""
        if asked.model is not None and asked.model != self._served:
            text = f"the model {asked.model[:200]!r} is not served here: ask for {self._served!r}"
            raise ApiError(404, text, "model_not_found", "model")
        tenant = tenant_of(request.state)
        if self._settings.log_prompts:
            logger.info("%s asks: %s", tenant, asked.model_dump_json(include={self.prompt}))
        if asked.stream:
            return EventStream(self._events(asked, tenant), self._load, self._settings.ping_seconds)
        answer = await wait_for(self._whole(asked, tenant), request.receive, self._load)
        return Response(status_code=CLIENT_CLOSED) if answer is None else JsonResponse(answer)

    @abstractmethod
    async def _whole(self, asked: Asked, tenant: str) -> dict[str, Any]:
        """The answer."""

    @abstractmethod
    def _events(self, asked: Asked, tenant: str) -> Events:
        """The answer as it grows."""
