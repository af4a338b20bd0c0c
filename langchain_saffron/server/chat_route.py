"""`POST /v1/chat/completions`: a call of `ChatSaffron`."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable
from starlette.requests import Request
from starlette.responses import Response

from langchain_saffron.chat_models import ChatSaffron
from langchain_saffron.server.answers import chat_answer, chat_chunks
from langchain_saffron.server.requests import chat_options, to_messages
from langchain_saffron.server.route import Call, Route, logger
from langchain_saffron.server.streaming import Events
from langchain_saffron.server.wire import ChatRequest


class ChatRoute(Route[ChatSaffron, ChatRequest]):
    """Answers chats."""

    prompt = "messages"
    name = "chat"

    async def answer(self, asked: ChatRequest, request: Request) -> Response:
        """Answer one."""
        return await self.respond(asked, request)

    async def _whole(self, asked: ChatRequest, tenant: str) -> dict[str, Any]:
        begun = time.perf_counter()
        call = self._call(chat_options(asked, self._model, tenant), tenant)
        model, options = await self._bound(call)
        message = await model.ainvoke(to_messages(asked.messages), **options)
        self._note(call, message, begun)
        return chat_answer(message, self._served)

    async def _events(self, asked: ChatRequest, tenant: str) -> Events:
        begun = time.perf_counter()
        call = self._call(chat_options(asked, self._model, tenant), tenant)
        model, options = await self._bound(call)
        whole: AIMessageChunk | None = None

        async def told() -> Any:
            nonlocal whole
            stream: Any = model.astream(to_messages(asked.messages), **options)
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    whole = chunk if whole is None or not self._settings.log_prompts else whole + chunk
                    yield chunk

        include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        async with aclosing(told()) as chunks:
            async for event in chat_chunks(chunks, self._served, include_usage):
                yield event
        if whole is not None:
            self._note(call, whole, begun)

    async def _bound(self, call: Call) -> tuple[Runnable[Any, AIMessage], dict[str, Any]]:
        """The model with the tools of a request, and its other options."""
        options = dict(call.options)
        if "tools" not in options:
            return self._model, options
        tools = {name: options.pop(name) for name in ("tools", "tool_choice", "parallel_tool_calls")}
        # looking at schemas may take a while
        return await asyncio.to_thread(self._model.bind_tools, **tools), options

    def _note(self, call: Call, message: AIMessage, begun: float) -> None:
        tenant = call.asker.tenant
        counted = message.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
        logger.info(
            "%s: %d tokens in, %d out, %s, %.2f s",
            tenant,
            counted["input_tokens"],
            counted["output_tokens"],
            message.response_metadata.get("finish_reason"),
            time.perf_counter() - begun,
        )
        if self._settings.log_prompts:
            logger.info("%s gets: %s", tenant, message.text)
        self._audited(call, message.response_metadata, counted["output_tokens"], message.text)
