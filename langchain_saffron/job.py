"""One call of a face: a rendered prompt, its settings, and the engine that runs it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig

from langchain_saffron.engine import SearchResult
from langchain_saffron.engine.handle import Handle
from langchain_saffron.engine.request import RequestOptions
from langchain_saffron.face import SaffronFields
from langchain_saffron.prompts import RenderedPrompt
from langchain_saffron.settings import SearchSettings

MAX_CONCURRENCY = 64


@dataclass(frozen=True)
class Job:
    """What a call of a face comes to.

    Attributes:
        face: The face with the call's options.
        prompt: The prompt in both templates.
        settings: How to search.
        context: Tokens that the answer continues mid-text.
    """

    face: SaffronFields
    prompt: RenderedPrompt
    settings: SearchSettings
    context: Sequence[int]

    def start(self) -> Handle:
        """Hand it to the engine without waiting."""
        return self.face.load().submit(*self._prompts, self.settings, **self._options)

    def run(self) -> SearchResult:
        """Wait for the answer."""
        return self.start().result()

    async def arun(self) -> SearchResult:
        """Await the answer."""
        last: str | SearchResult = ""
        async for last in self.astream():
            pass
        assert isinstance(last, SearchResult)
        return last

    def stream(self) -> Iterator[str | SearchResult]:
        """Text as it becomes final, the result last."""
        return self.face.load().stream(*self._prompts, self.settings, **self._options)

    def astream(self) -> AsyncIterator[str | SearchResult]:
        """The same on the running event loop."""
        return self.face.load().astream(*self._prompts, self.settings, **self._options)

    @property
    def _prompts(self) -> tuple[Sequence[int], Sequence[int] | None]:
        return self.prompt.policy_ids, self.prompt.reward_ids

    @property
    def _options(self) -> RequestOptions:
        return {"cache_salt": self.face.cache_salt, "context_ids": self.context, "timeout": self.face.timeout}


def concurrent(config: RunnableConfig | list[RunnableConfig] | None) -> RunnableConfig | list[RunnableConfig]:
    """`config` with a `max_concurrency` where it has none: LangChain's default is a handful of threads."""
    if isinstance(config, list):
        return [{"max_concurrency": MAX_CONCURRENCY, **one} for one in config]
    return {"max_concurrency": MAX_CONCURRENCY, **(config or {})}
