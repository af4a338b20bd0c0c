"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`, never a stack trace."""

import json
import logging
import math
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from langchain_saffron.errors import (
    ContextOverflowError,
    EngineBusyError,
    EngineClosedError,
    ModelNotFoundError,
    PromptError,
    RequestTimeoutError,
    SaffronError,
    SettingsError,
)

logger = logging.getLogger("langchain_saffron.server")

INVALID, SERVER = "invalid_request_error", "server_error"
# seconds after which a client that was turned away may ask again
RETRY_AFTER = 2
# what a client can ask for here
ROUTES = "/v1/chat/completions, /v1/completions and /v1/models"
# FastAPI's words for a body that no parser of JSON can read
_UNREADABLE = "There was an error parsing the body"
# fields of OpenAI's that have one value here, and what to do about others
_ONE_VALUE = {
    "logprobs": "this server tells no probabilities: leave it out",
    "top_logprobs": "this server tells no probabilities: leave it out",
    "n": "one answer a request: send several requests",
    "best_of": "one answer a request: effort and width say how hard to search for it",
    "echo": "the prompt is not repeated: leave it out",
    "suffix": "nothing can be written in front of a text: leave it out",
    "frequency_penalty": "there is no such penalty here: leave it out",
    "presence_penalty": "there is no such penalty here: leave it out",
    "logit_bias": "single tokens cannot be made likelier here: leave it out",
    "modalities": "this server writes text only",
}
_NAMES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


class ApiError(HTTPException):
    """An answer that is an error.

    Attributes:
        body: What the client reads.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take what there is to say.

        Args:
            status: HTTP's.
            message: For a person.
            code: For a program.
            param: The field of the request that is to blame.
            kind: The class of the error, `type` in the body.
            headers: Of the response.
        """
        super().__init__(status, message, dict(headers or {}))
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def busy(message: str, code: str) -> ApiError:
    """The server takes no more for now."""
    return ApiError(503, message, code, kind=SERVER, headers={"Retry-After": str(RETRY_AFTER)})


def too_large(most: int) -> ApiError:
    """A body is longer than `most` bytes."""
    return ApiError(413, f"the body is longer than {most} bytes: send fewer or shorter messages", _NAMES[413])


def api_error(error: BaseException) -> ApiError:
    """Any error as one for the client; what nobody expected is logged, without what was asked, and told in a line."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return ApiError(404, f"there is no such route: this server has {ROUTES}", _NAMES[404])
        if error.detail == _UNREADABLE:
            return ApiError(400, "the body is not JSON", "invalid_json")
        return ApiError(error.status_code, str(error.detail), _NAMES.get(error.status_code), headers=error.headers)
    if isinstance(error, ContextOverflowError):
        return ApiError(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, EngineBusyError | EngineClosedError):
        return busy(str(error), "overloaded")
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "the request took longer than this server allows", "timeout", kind=SERVER)
    if isinstance(error, ModelNotFoundError):
        return ApiError(404, str(error), "model_not_found", "model")
    if isinstance(error, SettingsError | PromptError):
        field = re.match(r"(\w+): ", str(error))
        param = field[1] if field else "messages" if isinstance(error, PromptError) else None
        return ApiError(400, str(error), "invalid_value", param)
    # messages of errors may quote prompts: the log gets the places only
    kind = type(error).__name__
    logger.error("%s\n%s", kind, "".join(traceback.format_tb(error.__traceback__)))
    if (cause := error.__cause__) is not None:
        logger.error("caused by %s\n%s", type(cause).__name__, "".join(traceback.format_tb(cause.__traceback__)))
    message = (
        f"the engine failed ({kind}); ask again" if isinstance(error, SaffronError) else "internal error; ask again"
    )
    return ApiError(500, message, "internal_error", kind=SERVER)


def json_bytes(value: Any) -> bytes:
    """JSON as the wire carries it: no infinities, and no halves of surrogate pairs."""
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class JsonResponse(Response):
    """A response of JSON, of whatever text and numbers."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See `json_bytes`."""
        return json_bytes(content)


def error_response(error: BaseException) -> JsonResponse:
    """The response that an error is."""
    told = api_error(error)
    return JsonResponse(told.body, told.status_code, told.headers)


def _invalid(problems: Sequence[Any]) -> ApiError:
    """What is wrong with a body, in one line that does not repeat it."""
    first = problems[0] if problems else {"loc": (), "msg": "the body cannot be read", "type": ""}
    where = _place(first["loc"])
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", "invalid_json")
    if not where and first["type"] == "model_attributes_type":
        text = "the body has to be a JSON object, sent with 'Content-Type: application/json'"
        return ApiError(400, text, "invalid_json")
    lines = [_line(problem) for problem in problems[:3]]
    return ApiError(400, "; ".join(lines), "invalid_value", where or None)


def _line(problem: Any) -> str:
    where = _place(problem["loc"])
    text = str(problem["msg"])
    if problem["type"] == "extra_forbidden":
        text = "there is no such field"
    elif (why := _ONE_VALUE.get(where.partition(".")[0])) is not None:
        text = why
    return f"{where[:200]}: {text[:500]}" if where else text[:500]


def _place(loc: Sequence[str | int]) -> str:
    """Where in the body something is wrong; names of types, which pydantic puts between, are none of a place."""
    named = [str(part) for part in loc[1:] if isinstance(part, int) or re.fullmatch(r"[a-z_]+", part)]
    return ".".join(part for part in named if part not in ("str", "int", "bool", "float", "dict"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
