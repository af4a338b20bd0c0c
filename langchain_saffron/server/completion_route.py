"""`POST /v1/completions`: calls of `SaffronLLM`."""

from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.outputs import Generation, LLMResult
from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.llms import SaffronLLM
from langchain_saffron.server.answers import Heading, finish_reason, stats
from langchain_saffron.server.requests import call_options
from langchain_saffron.server.route import Call, Route
from langchain_saffron.server.streaming import Events
from langchain_saffron.server.wire import CompletionRequest


class CompletionRoute(Route[SaffronLLM, CompletionRequest]):
    """Completes plain text."""

    prompt = "prompt"
    name = "completions"

    async def answer(self, asked: CompletionRequest, request: Request) -> Response:
        """Complete a text, or several."""
        return await self.respond(asked, request)

    async def _whole(self, asked: CompletionRequest, tenant: str) -> dict[str, Any]:
        call = self._call(call_options(asked, self._model, tenant), tenant)
        result = await self._model.agenerate(_prompts(asked), **call.options)
        generations = [one for (one,) in result.generations]
        for one in generations:
            self._note(call, one.generation_info or {}, one.text)
        choices = [_choice(i, one.text, one.generation_info or {}) for i, one in enumerate(generations)]
        return self._heading().around(
            choices,
            usage=(result.llm_output or {}).get("token_usage"),
            saffron=[stats(one.generation_info or {}) for one in generations],
        )

    async def _events(self, asked: CompletionRequest, tenant: str) -> Events:
        call = self._call(call_options(asked, self._model, tenant), tenant)
        heading = self._heading()
        used = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        for index, prompt in enumerate(_prompts(asked)):
            ending = _Ending()
            said = ""
            pieces: Any = self._model.astream(prompt, {"callbacks": [ending]}, **call.options)
            async with aclosing(pieces):
                async for text in pieces:
                    if text:
                        said += text if self._settings.log_prompts else ""
                        yield heading.around([{"index": index, "text": text, "logprobs": None, "finish_reason": None}])
            info = ending.info
            self._note(call, info, said)
            yield heading.around([_choice(index, "", info)], saffron=stats(info))
            used = {name: count + info.get("token_usage", {}).get(name, 0) for name, count in used.items()}
        if asked.stream_options and asked.stream_options.include_usage:
            yield heading.around([], usage=used)

    def _note(self, call: Call, info: dict[str, Any], text: str) -> None:
        self._audited(call, info, info.get("token_usage", {}).get("completion_tokens"), text)

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
