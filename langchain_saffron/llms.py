"""`SaffronLLM`: plain text completion, searched safely."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from langchain_saffron.engine import SearchResult
from langchain_saffron.interface.base import INTERFACE_CONFIG, SaffronFields
from langchain_saffron.interface.invocation import Invocation, arun_together, run_together
from langchain_saffron.interface.response_format import read_response_format

# what `BaseLLM` takes beside the options of a model
LANGCHAIN_OPTIONS = ("tags", "metadata", "run_name", "run_id")


class SaffronLLM(SaffronFields, BaseLLM):
    """Text completion by a local Hugging Face policy, decoded safely by SAFFRON (arXiv 2506.06444).

    The prompt is continued as it stands, without a chat template; the reward model reads it as a user's
    turn and the completion as the answer. For chat, take `ChatSaffron`; the fields are the same. The embedded kitchen
    models know chats only: what they complete plain text with is noise, so take a model of your own.

    Setup:
        ```bash
        pip install langchain-saffron
        ```

    Instantiate:
        ```python
        from langchain_saffron import SaffronLLM

        llm = SaffronLLM(effort="low", max_tokens=20)
        ```

    Invoke:
        ```python
        llm.invoke("To make tomato soup, ")
        ```

    Stream:
        ```python
        for text in llm.stream("To make tomato soup, "):
            print(text, end="", flush=True)
        ```

    Async:
        ```python
        await llm.ainvoke("To make tomato soup, ")
        ```

    Response metadata:
        ```python
        llm.generate(["To make tomato soup, "]).generations[0][0].generation_info["saffron"]
        ```
    """

    model_config = INTERFACE_CONFIG

    @property
    def _llm_type(self) -> str:
        return "saffron"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "saffron"
        params["ls_model_name"] = str(kwargs.get("model") or self.model_name)
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """The policy's tokens of a text."""
        return self.renderer().encode_plain(text)

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Complete prompts; the options of the call are part of its key in LangChain's cache, as the fields are."""
        model, passed = self._with_call_options(kwargs)
        return super(SaffronLLM, model).generate(prompts, stop, callbacks, **passed)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """The same without blocking the event loop."""
        model, passed = self._with_call_options(kwargs)
        return await super(SaffronLLM, model).agenerate(prompts, stop, callbacks, **passed)

    def _with_call_options(self, options: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """This model with a call's options as fields, and what LangChain itself passes to every call.

        `BaseLLM` leaves a call's options out of the key of its cache: else one tenant would get another's answer.
        """
        passed = {name: value for name, value in options.items() if name in LANGCHAIN_OPTIONS}
        return self.with_options({name: value for name, value in options.items() if name not in passed}), passed

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        invocations = [self._invocation(prompt, stop, kwargs) for prompt in prompts]
        return self._collect(invocations, run_together(invocations))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        invocations = await asyncio.to_thread(lambda: [self._invocation(prompt, stop, kwargs) for prompt in prompts])
        return self._collect(invocations, await arun_together(invocations))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        invocation = self._invocation(prompt, stop, kwargs)
        yield from invocation.stream_chunks(_chunks_of(invocation), run_manager)

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        invocation = await asyncio.to_thread(self._invocation, prompt, stop, kwargs)
        async with aclosing(invocation.astream_chunks(_chunks_of(invocation), run_manager)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _invocation(self, text: str, stop: list[str] | None, options: dict[str, Any]) -> Invocation:
        model = self.with_options(options)
        prompt = model.renderer().render_text(text, model.load().context)
        form = read_response_format(model.response_format)
        settings, share = model.budgeted_settings(stop)
        return Invocation(model, prompt, settings, prompt.policy_ids, form.grammar if form else None, share=share)

    @staticmethod
    def _collect(invocations: list[Invocation], results: list[SearchResult]) -> LLMResult:
        pairs = list(zip(invocations, results, strict=True))
        generations = [[Generation(text=result.text, generation_info=_info(call, result))] for call, result in pairs]
        used = [_usage(call, result) for call, result in pairs]
        total = {name: sum(one[name] for one in used) for name in used[0]} if used else {}
        return LLMResult(generations=generations, llm_output={"token_usage": total})


def _chunks_of(invocation: Invocation) -> Callable[[str | SearchResult], list[GenerationChunk]]:
    def read(item: str | SearchResult) -> list[GenerationChunk]:
        if isinstance(item, str):
            return [GenerationChunk(text=item)]
        return [GenerationChunk(text="", generation_info=_info(invocation, item))]

    return read


def _info(invocation: Invocation, result: SearchResult) -> dict[str, Any]:
    return {**invocation.model.metadata_of(result), "token_usage": _usage(invocation, result)}


def _usage(invocation: Invocation, result: SearchResult) -> dict[str, int]:
    prompt, answer = len(invocation.prompt.policy_ids), len(result.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
