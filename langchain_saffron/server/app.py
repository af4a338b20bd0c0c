"""The ASGI application."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.chat_models import ChatSaffron
from langchain_saffron.errors import RewardModelRequiredError
from langchain_saffron.llms import SaffronLLM
from langchain_saffron.server.about_routes import AllMetrics, add_about_routes
from langchain_saffron.server.answers import FINGERPRINT
from langchain_saffron.server.chat_route import ChatRoute
from langchain_saffron.server.completion_route import CompletionRoute
from langchain_saffron.server.errors import error_response
from langchain_saffron.server.gate import Gate
from langchain_saffron.server.load import Load
from langchain_saffron.server.rate_limit import RateLimit
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.tenants import KeyRing


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error there is."""

    error: ErrorDetail


# the gate looks at keys; this is for the document that describes the routes
KEYED = [Depends(HTTPBearer(auto_error=False))]
# fastapi would add its own 422 otherwise
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}


def create_app(
    chat: ChatSaffron,
    settings: ServerSettings | None = None,
    replica: str | None = None,
    all_metrics: AllMetrics | None = None,
) -> FastAPI:
    """An OpenAI-compatible endpoint, for any ASGI server; `saffron serve` runs it under uvicorn.

    It installs no signal handlers. All requests share the one engine behind `chat`, which is loaded now if it is not.

    Args:
        chat: What answers; its fields are the defaults of every request.
        settings: How to serve.
        replica: Which of several processes this is; a label of its metrics.
        all_metrics: Asks all of them for their metrics; `None` where this is the only one.

    Returns:
        The application; `app.state.load` says what it has to do, and drains it.

    Raises:
        ModelLoadError: The model cannot be loaded.
        RewardModelRequiredError: Rules ask a process reward model, and there is none.
    """
    settings = settings or ServerSettings()
    engine = chat.load()
    if settings.rules.verify and engine.process_reward_model is None:
        raise RewardModelRequiredError(
            "rules: verify asks a process reward model: pass process_reward_model= (--prm), for embedded models their "
            "name"
        )
    engine.limit(settings.max_running, settings.max_model_len)
    # by the end of a path only: a directory's place is nobody's business
    served = settings.served_name or chat.model_name.rstrip("/").split("/")[-1]
    load = Load(settings.max_running + settings.max_queue)
    app = FastAPI(title="saffron", version=FINGERPRINT.removeprefix("saffron-"), responses=ERRORS, docs_url=None)
    app.state.load = load
    app.add_middleware(
        Gate,
        keys=KeyRing(settings.api_keys),
        rate=RateLimit(settings.rate_limit),
        load=load,
        max_body=settings.max_body,
    )
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _told)
    chats = ChatRoute(chat, served, load, settings)
    completions = CompletionRoute(_completing(chat), served, load, settings)
    app.post("/v1/chat/completions", response_class=Response, dependencies=KEYED)(chats.answer)
    app.post("/v1/completions", response_class=Response, dependencies=KEYED)(completions.answer)
    add_about_routes(app, engine, served, load, replica, all_metrics)
    return app


async def _told(request: Request, error: Exception) -> Response:
    return error_response(error)


def _completing(chat: ChatSaffron) -> SaffronLLM:
    """The same model for plain text; it shares the engine."""
    given = {name: getattr(chat, name) for name in chat.model_fields_set if name in SaffronLLM.model_fields}
    return SaffronLLM(**given)
