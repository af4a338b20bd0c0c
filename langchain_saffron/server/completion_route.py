"""`POST /v1/completions`: calls of `SaffronLLM`."""

import logging
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.outputs import Generation, LLMResult
from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.llms import SaffronLLM
from langchain_saffron.server.answers import Heading, finish_reason, stats
from langchain_saffron.server.chat_route import check_name
from langchain_saffron.server.errors import JsonResponse
from langchain_saffron.server.gate import tenant_of
from langchain_saffron.server.load import Load
from langchain_saffron.server.requests import call_options
from langchain_saffron.server.settings import ServerSettings
from langchain_saffron.server.streaming import CLIENT_CLOSED, Events, EventStream, wait_for
from langchain_saffron.server.wire import CompletionRequest

logger = logging.getLogger("langchain_saffron.server")


class CompletionRoute:
    """Completes plain text."""

    def __init__(self, model: SaffronLLM, served: str, load: Load, settings: ServerSettings) -> None:
        """Take what completes.

        Args:
            model: The LLM, with the operator's settings.
            served: What it is called.
            load: The server's.
            settings: The server's.
        """
        self._model, self._served, self._load, self._settings = model, served, load, settings

    async def answer(self, asked: CompletionRequest, request: Request) -> Response:
        """Complete a text, or several."""
        check_name(asked, self._served)
        tenant = tenant_of(request.state)
        if self._settings.log_prompts:
            logger.info("%s asks: %s", tenant, asked.model_dump_json(include={"prompt"}))
        if asked.stream:
            return EventStream(self._events(asked, tenant), self._load, self._settings.ping_seconds)
        answer = await wait_for(self._whole(asked, tenant), request.receive, self._load)
        return Response(status_code=CLIENT_CLOSED) if answer is None else JsonResponse(answer)

    async def _whole(self, asked: CompletionRequest, tenant: str) -> dict[str, Any]:
        result = await self._model.agenerate(_prompts(asked), **call_options(asked, self._model, tenant))
        generations = [one for (one,) in result.generations]
        choices = [_choice(i, one.text, one.generation_info or {}) for i, one in enumerate(generations)]
        return self._heading().around(
            choices,
            usage=(result.llm_output or {}).get("token_usage"),
            saffron=[stats(one.generation_info or {}) for one in generations],
        )

    async def _events(self, asked: CompletionRequest, tenant: str) -> Events:
        heading = self._heading()
        used = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        for index, prompt in enumerate(_prompts(asked)):
            ending = _Ending()
            pieces: Any = self._model.astream(
                prompt, {"callbacks": [ending]}, **call_options(asked, self._model, tenant)
            )
            async with aclosing(pieces):
                async for text in pieces:
                    if text:
                        yield heading.around([{"index": index, "text": text, "logprobs": None, "finish_reason": None}])
            info = ending.info
            yield heading.around([_choice(index, "", info)], saffron=stats(info))
            used = {name: count + info.get("token_usage", {}).get(name, 0) for name, count in used.items()}
        if asked.stream_options and asked.stream_options.include_usage:
            yield heading.around([], usage=used)

    def _heading(self) -> Heading:
        return Heading("text_completion", self._served)


class _Ending(AsyncCallbackHandler):
    """Keeps what LangChain's streams of an LLM do not give out: how the text ended."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        generation: Generation = response.generations[0][0]
        self.info = generation.generation_info or {}


def _prompts(asked: CompletionRequest) -> list[str]:
    return [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt


def _choice(index: int, text: str, info: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason(info, False)}
