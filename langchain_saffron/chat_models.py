"""`ChatSaffron`: a LangChain chat model that searches for a safe answer while it writes it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig

from langchain_saffron.engine import SearchResult
from langchain_saffron.face import FACE_CONFIG, SaffronFields
from langchain_saffron.job import Job, concurrent

CONTEXT_TOKENS = 8


class ChatSaffron(SaffronFields, BaseChatModel):
    """A chat model around a local Hugging Face policy, decoded safely by SAFFRON (arXiv 2506.06444).

    Setup:
        ```bash
        pip install langchain-saffron
        ```

    Key init args — models:
        model: The policy: a hub id, a directory or a loaded causal LM. Without it, the small embedded
            kitchen models answer, offline.
        reward_model: The multifurcation reward model (MRM): a directory or hub id.
        reward_base: The MRM's base model, where its directory names none that can be found.
        engine: A `SaffronEngine` to share instead.
        device, dtype, device_map, attn_implementation, quantization_config: How the weights are loaded.

    Key init args — decoding:
        effort: `"off"` (plain decoding), `"low"`, `"medium"`, `"high"` or `"max"`: how wide the search is.
        max_tokens, min_tokens, stop, temperature, top_p, seed: As everywhere.
        max_tflops, max_seconds, max_reward_calls, on_budget: What one request may cost.
        refusal_threshold: Nothing whose predicted safety reward lies below it is ever said.
        cache_salt: One a tenant, so that nobody can tell what others asked.

    Instantiate:
        ```python
        from langchain_saffron import ChatSaffron

        chat = ChatSaffron(effort="medium", max_tokens=200)
        ```

    Invoke:
        ```python
        chat.invoke("How do I make tomato soup?").text
        ```

    Stream:
        ```python
        for chunk in chat.stream("How do I make tomato soup?"):
            print(chunk.text, end="", flush=True)
        ```
        Only text that the search can no longer discard is streamed; together it is what `invoke` returns.

    Async:
        ```python
        answer = await chat.ainvoke("How do I make tomato soup?")
        answers = await chat.abatch(["Hello!", "Set a timer for ten minutes."])
        async for chunk in chat.astream("How do I make tomato soup?"):
            print(chunk.text, end="", flush=True)
        ```
        Concurrent requests share the models' forwards.

    Token usage:
        ```python
        chat.invoke("Hello!").usage_metadata
        ```
        Input and emitted tokens. What the search explored besides is under "Response metadata".

    Response metadata:
        ```python
        chat.invoke("Hello!").response_metadata["saffron"]
        ```
        The answer's predicted reward, TFLOP, seconds, calls and tokens of policy and reward model.
    """

    model_config = FACE_CONFIG

    @property
    def _llm_type(self) -> str:
        return "saffron-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="saffron",
            ls_model_name=str(kwargs.get("model") or self.model_name()),
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
        )
        if (max_tokens := kwargs.get("max_tokens", self.max_tokens)) is not None:
            params["ls_max_tokens"] = max_tokens
        if strings := stop or self.stop:
            params["ls_stop"] = [strings] if isinstance(strings, str) else list(strings)
        return params

    def _resolve_model_profile(self) -> Any:
        profile: dict[str, Any] = {
            "text_inputs": True,
            "image_inputs": False,
            "audio_inputs": False,
            "video_inputs": False,
            "text_outputs": True,
            "tool_calling": False,
            "structured_output": False,
            "open_weights": True,
        }
        if path := self.local_config():
            config = json.loads(path.read_text(encoding="utf-8"))
            if context := config.get("max_position_embeddings"):
                profile["max_input_tokens"] = context
                profile["max_output_tokens"] = self.max_tokens or context
        return profile

    def get_token_ids(self, text: str) -> list[int]:
        """The policy's tokens of a text."""
        return self.renderer().encode_plain(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """How many tokens these messages take as a prompt, the template's own included."""
        return len(self.renderer().render(messages).policy_ids)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs in shared forwards, `config["max_concurrency"]` (64) at a time."""
        return super().batch(inputs, concurrent(config), return_exceptions=return_exceptions, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        job = self._job(messages, stop, kwargs)
        return self._result(job, job.run())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        job = await asyncio.to_thread(self._job, messages, stop, kwargs)
        return self._result(job, await job.arun())

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        job = self._job(messages, stop, kwargs)
        for item in job.stream():
            chunk = self._chunk(job, item)
            if run_manager and chunk.text:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        job = await asyncio.to_thread(self._job, messages, stop, kwargs)
        async for item in job.astream():
            chunk = self._chunk(job, item)
            if run_manager and chunk.text:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _job(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> Job:
        """Everything that one call needs; loads the models if need be, so not for an event loop's thread."""
        face = self.with_options(options)
        prompt = face.renderer().render(messages)
        return Job(face, prompt, face.search_settings(stop), prompt.prefill_ids[-CONTEXT_TOKENS:])

    @staticmethod
    def _result(job: Job, result: SearchResult) -> ChatResult:
        message = AIMessage(
            content=result.text,
            response_metadata=job.face.metadata_of(result),
            usage_metadata=_usage(job, result),
            additional_kwargs=_refusal(job, result),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    @staticmethod
    def _chunk(job: Job, item: str | SearchResult) -> ChatGenerationChunk:
        if isinstance(item, str):
            return ChatGenerationChunk(message=AIMessageChunk(content=item))
        # numbers and names on exactly one chunk: LangChain adds chunks up
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                response_metadata=job.face.metadata_of(item),
                usage_metadata=_usage(job, item),
                additional_kwargs=_refusal(job, item),
                chunk_position="last",
            )
        )


def _refusal(job: Job, result: SearchResult) -> dict[str, Any]:
    return {"refusal": job.settings.refusal_text} if result.finish_reason == "refusal" else {}


def _usage(job: Job, result: SearchResult) -> UsageMetadata:
    prompt, answer = len(job.prompt.policy_ids), len(result.token_ids)
    return UsageMetadata(
        input_tokens=prompt,
        output_tokens=answer,
        total_tokens=prompt + answer,
        input_token_details=InputTokenDetails(cache_read=result.stats.cached_prompt),
    )
