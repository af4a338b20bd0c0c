"""What the routes have in common: how a request comes in, and how its answer goes out."""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.interface.base import SaffronFields
from langchain_saffron.server.audit import AuditLog
from langchain_saffron.server.errors import ApiError, JsonResponse
from langchain_saffron.server.gate import tenant_of
from langchain_saffron.server.load import Load
from langchain_saffron.server.rules import Asker, RouteName
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.streaming import CLIENT_CLOSED, Events, EventStream, wait_for
from langchain_saffron.server.wire import Decoding

logger = logging.getLogger("langchain_saffron.server")

Model = TypeVar("Model", bound=SaffronFields)
Asked = TypeVar("Asked", bound=Decoding)

# settings of the operator's that rules are about
_OWN = (
    "effort",
    "width",
    "min_width",
    "width_floor",
    "max_tokens",
    "refusal_threshold",
    "max_tflops",
    "max_seconds",
    "max_reward_calls",
)


@dataclass(frozen=True)
class Call:
    """A request as it is answered.

    Attributes:
        options: Of the call, as the operator's rules have them.
        asker: Where the request comes from.
        rules: The names of the rules that hold.
    """

    options: dict[str, Any]
    asker: Asker
    rules: list[str]


class Route(ABC, Generic[Model, Asked]):
    """Answers requests of one kind.

    Attributes:
        prompt: The field of a request that holds what is asked.
        name: What rules call the route.
    """

    prompt: str
    name: RouteName

    def __init__(self, model: Model, served: str, load: Load, settings: ServerSettings) -> None:
        """Take what answers.

        Args:
            model: The chat model or LLM, with the operator's settings.
            served: What it is called.
            load: The server's.
            settings: The server's.
        """
        self._model, self._served, self._load, self._settings = model, served, load, settings
        self._own = {name: getattr(model, name) for name in _OWN}
        self._audit = None if settings.audit_log is None else AuditLog(settings.audit_log, settings.log_prompts)

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

    def _call(self, options: dict[str, Any], tenant: str) -> Call:
        """What becomes of a request's options under the operator's rules."""
        tools = [tool["function"]["name"] for tool in options.get("tools", ())]
        asker = Asker(self.name, tenant, tools)
        options, rules = self._settings.rules.apply(options, asker, self._own)
        if options.get("verify") and self._model.load().process_reward_model is None:
            text = "verify: this server has no process reward model (PRM): leave it out"
            raise ApiError(400, text, "invalid_value", "verify")
        return Call(options, asker, rules)

    def _audited(self, call: Call, info: dict[str, Any], tokens: int | None, text: str) -> None:
        if self._audit is not None:
            self._audit.note(call.asker, call.rules, info, tokens, text)

    @abstractmethod
    async def _whole(self, asked: Asked, tenant: str) -> dict[str, Any]:
        """The answer."""

    @abstractmethod
    def _events(self, asked: Asked, tenant: str) -> Events:
        """The answer as it grows."""
