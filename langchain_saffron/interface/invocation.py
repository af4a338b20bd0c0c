"""One call of a chat model or LLM: a rendered prompt, its settings, and the engine that runs it."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk
from langchain_core.runnables import RunnableConfig

from langchain_saffron.engine import PromptRisk, SearchResult
from langchain_saffron.engine.handle import Handle
from langchain_saffron.engine.request import RequestOptions
from langchain_saffron.errors import BudgetError
from langchain_saffron.grammar import Grammar
from langchain_saffron.interface.prompts import RenderedPrompt
from langchain_saffron.settings import SearchSettings
from langchain_saffron.shared_budget import Share
from langchain_saffron.tools import ToolFormat

if TYPE_CHECKING:
    from langchain_saffron.interface.base import SaffronFields

MAX_CONCURRENCY = 64
# prompts of one list that are in the engine at a time
RUN_TOGETHER = 256
# where results go whose searches are recorded, if that is wanted
RECORDED: ContextVar[list[SearchResult] | None] = ContextVar("recorded", default=None)

Chunk = TypeVar("Chunk", GenerationChunk, ChatGenerationChunk)
ReadChunks = Callable[[str | SearchResult], Iterable[Chunk]]


@dataclass(frozen=True)
class Invocation:
    """What a call of `ChatSaffron` or `SaffronLLM` comes to.

    Attributes:
        model: The chat model or LLM with the call's options.
        prompt: The prompt in both templates.
        settings: How to search.
        context: Tokens before the answer that it continues mid-text.
        grammar: What the answer has to look like, if that is prescribed.
        tool_format: How the model writes tool calls, where it may.
        tools: Those that it may call.
        share: Its part of a budget that several calls share.
        recorded: Where its result goes if its search is to be recorded.
    """

    model: "SaffronFields"
    prompt: RenderedPrompt
    settings: SearchSettings
    context: Sequence[int]
    grammar: Grammar | None = None
    tool_format: ToolFormat | None = None
    tools: Sequence[dict[str, Any]] = ()
    share: Share | None = None
    recorded: list[SearchResult] | None = field(default_factory=RECORDED.get)

    def start(self) -> Handle:
        """Hand it to the engine without waiting; `wait` for what comes of it."""
        try:
            return self.model.load().submit(*self._prompts, self.settings, **self._options)
        except BaseException:
            if self.share is not None:
                self.share.release()
            raise

    def wait(self, handle: Handle) -> SearchResult:
        """The answer to a invocation that was started."""
        with self._paying():
            result = handle.result()
            self._settle(result)
        return result

    def run(self) -> SearchResult:
        """Wait for the answer."""
        return self.wait(self.start())

    async def arun(self) -> SearchResult:
        """Await the answer."""
        last: str | SearchResult = ""
        async with aclosing(self.astream()) as items:
            async for last in items:
                pass
        assert isinstance(last, SearchResult)
        return last

    def stream(self) -> Generator[str | SearchResult]:
        """Text as it becomes final, the result last."""
        items = self.model.load().stream(*self._prompts, self.settings, **self._options)
        with self._paying(), closing(items):
            for item in items:
                self._settle(item)
                yield item

    async def astream(self) -> AsyncGenerator[str | SearchResult]:
        """The same on the running event loop."""
        items = self.model.load().astream(*self._prompts, self.settings, **self._options)
        with self._paying():
            async with aclosing(items):
                async for item in items:
                    self._settle(item)
                    yield item

    def stream_chunks(self, read: ReadChunks[Chunk], run_manager: CallbackManagerForLLMRun | None) -> Iterator[Chunk]:
        """The stream as LangChain's chunks, each told to the callbacks before it is given out.

        Args:
            read: From a piece of the stream to chunks.
            run_manager: The call's callbacks, if there are any.
        """
        with closing(self.stream()) as items:
            for item in items:
                for chunk in read(item):
                    if run_manager and _says_something(chunk):
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def astream_chunks(
        self, read: ReadChunks[Chunk], run_manager: AsyncCallbackManagerForLLMRun | None
    ) -> AsyncGenerator[Chunk]:
        """The same on the running event loop."""
        async with aclosing(self.astream()) as items:
            async for item in items:
                for chunk in read(item):
                    if run_manager and _says_something(chunk):
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def look_ahead(self) -> PromptRisk:
        """How safe the next words are likely to be; nothing is written."""
        options: RequestOptions = {"cache_salt": self.model.cache_salt, "timeout": self.model.timeout}
        return self.model.load().look_ahead(*self._prompts, self.settings, **options)

    @contextmanager
    def _paying(self) -> Iterator[None]:
        """Books the call's part of the shared budget, whatever becomes of the call."""
        if self.share is None:
            yield
            return
        with self.share:
            try:
                yield
            except BudgetError as error:
                # turned away before anything was computed
                self.share.release()
                raise BudgetError(f"{error}; that limit is what this call may spend of the shared budget") from error

    def _settle(self, item: str | SearchResult) -> None:
        if isinstance(item, SearchResult):
            if self.recorded is not None:
                self.recorded.append(item)
            if self.share is not None:
                self.share.settle(item.stats)

    @property
    def _prompts(self) -> tuple[Sequence[int], Sequence[int] | None]:
        return self.prompt.policy_ids, self.prompt.reward_ids

    @property
    def _options(self) -> RequestOptions:
        return {
            "cache_salt": self.model.cache_salt,
            "prm_prompt_ids": self.prompt.prm_ids,
            "context_ids": self.context,
            "timeout": self.model.timeout,
            "grammar": self.grammar,
            "thoughts": self.prompt.thoughts,
            "reward_thoughts": self.model.reward_thoughts,
            "markers": self.tool_format.markers(self.model.load().tokenizer) if self.tool_format else {},
            "record_trace": self.recorded is not None and self.settings.search == "saffron",
        }


def run_together(invocations: Sequence[Invocation]) -> list[SearchResult]:
    """The answers to many calls, a number of which run at a time. One that fails ends them all."""
    rest, started = deque(invocations), deque[tuple[Invocation, Handle]]()
    results: list[SearchResult] = []
    try:
        while rest or started:
            while rest and len(started) < RUN_TOGETHER:
                invocation = rest.popleft()
                started.append((invocation, invocation.start()))
            invocation, handle = started.popleft()
            results.append(invocation.wait(handle))
    finally:
        for invocation, handle in started:
            handle.cancelled.set()
            if invocation.share is not None:
                invocation.share.settle()
        for invocation in rest:
            if invocation.share is not None:
                invocation.share.release()
    return results


async def arun_together(invocations: Sequence[Invocation]) -> list[SearchResult]:
    """The same on the running event loop."""
    room = asyncio.Semaphore(RUN_TOGETHER)

    async def run(invocation: Invocation) -> SearchResult:
        async with room:
            return await invocation.arun()

    tasks = [asyncio.ensure_future(run(invocation)) for invocation in invocations]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for invocation in invocations:
            if invocation.share is not None:
                # nothing where the call has settled it
                invocation.share.release()


def _says_something(chunk: GenerationChunk | ChatGenerationChunk) -> bool:
    message = getattr(chunk, "message", None)
    return bool(chunk.text or getattr(message, "content", "") or getattr(message, "tool_call_chunks", ()))


def concurrent(config: RunnableConfig | list[RunnableConfig] | None) -> RunnableConfig | list[RunnableConfig]:
    """`config` with a `max_concurrency` where it has none: LangChain's default is a handful of threads."""
    if isinstance(config, list):
        return [{"max_concurrency": MAX_CONCURRENCY, **one} for one in config]
    return {"max_concurrency": MAX_CONCURRENCY, **(config or {})}
