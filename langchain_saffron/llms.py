"""`SaffronLLM`: plain text completion, searched safely."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from langchain_saffron.engine import SearchResult
from langchain_saffron.interface.base import FACE_CONFIG, SaffronFields
from langchain_saffron.interface.invocation import Job
from langchain_saffron.interface.response_format import read_response_format

CONTEXT_TOKENS = 8


class SaffronLLM(SaffronFields, BaseLLM):
    """Text completion by a local Hugging Face policy, decoded safely by SAFFRON (arXiv 2506.06444).

    The prompt is continued as it stands, without a chat template; the reward model reads it as a user's
    turn and the completion as the answer. For chat, take `ChatSaffron`; the fields are the same.

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

    model_config = FACE_CONFIG

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

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        jobs = [self._job(prompt, stop, kwargs) for prompt in prompts]
        handles = [job.start() for job in jobs]
        return self._collect(jobs, [job.wait(handle) for job, handle in zip(jobs, handles, strict=True)])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        jobs = await asyncio.to_thread(lambda: [self._job(prompt, stop, kwargs) for prompt in prompts])
        return self._collect(jobs, await asyncio.gather(*(job.arun() for job in jobs)))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        job = self._job(prompt, stop, kwargs)
        for item in job.stream():
            chunk = self._chunk(job, item)
            if run_manager and chunk.text:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        job = await asyncio.to_thread(self._job, prompt, stop, kwargs)
        async for item in job.astream():
            chunk = self._chunk(job, item)
            if run_manager and chunk.text:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _job(self, text: str, stop: list[str] | None, options: dict[str, Any]) -> Job:
        face = self.with_options(options)
        prompt = face.renderer().render_text(text)
        form = read_response_format(face.response_format)
        context, grammar = prompt.policy_ids[-CONTEXT_TOKENS:], form.grammar if form else None
        settings, share = face.budgeted_settings(stop)
        return Job(face, prompt, settings, context, grammar, share=share)

    @staticmethod
    def _collect(jobs: list[Job], results: list[SearchResult]) -> LLMResult:
        generations = [
            [Generation(text=result.text, generation_info=job.face.metadata_of(result))]
            for job, result in zip(jobs, results, strict=True)
        ]
        prompt = sum(len(job.prompt.policy_ids) for job in jobs)
        answer = sum(len(result.token_ids) for result in results)
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return LLMResult(generations=generations, llm_output={"token_usage": usage})

    @staticmethod
    def _chunk(job: Job, item: str | SearchResult) -> GenerationChunk:
        if isinstance(item, str):
            return GenerationChunk(text=item)
        return GenerationChunk(text="", generation_info=job.face.metadata_of(item))
