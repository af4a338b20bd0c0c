"""`ChatSaffron`: a LangChain chat model that searches for a safe answer while it writes it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import model_validator

from langchain_saffron.engine import PromptRisk, SearchResult
from langchain_saffron.errors import PromptError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.interface.base import INTERFACE_CONFIG, SaffronFields
from langchain_saffron.interface.invocation import Invocation, concurrent
from langchain_saffron.interface.message_builder import AnswerReader
from langchain_saffron.interface.messages import to_turns
from langchain_saffron.interface.model_profile import (
    ModelFacts,
    known_facts,
    local_facts,
    model_profile,
    mrm_context,
    template_for_tools,
)
from langchain_saffron.interface.refusals import PROVIDER
from langchain_saffron.interface.response_format import (
    answer_grammar,
    instructed,
    read_response_format,
)
from langchain_saffron.interface.structured_output import Method, structured
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.runtime.files import local_path
from langchain_saffron.templates.template_variables import check_variables
from langchain_saffron.tools import ToolFormat, ToolRequest, get_tool_format, tool_request
from langchain_saffron.tools.request import check_tools

TOOL_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls")
# tokens that templates write around a turn, about, where it can only be counted by itself
AROUND_TURN = 4


class ChatSaffron(SaffronFields, BaseChatModel):
    """A chat model around a local Hugging Face policy, decoded safely by SAFFRON (arXiv 2506.06444).

    Setup:
        ```bash
        pip install langchain-saffron
        ```

    Key init args — models:
        model: The policy: a hub id, a directory, a GGUF file or a loaded causal LM. `"smollm2"` is a small real model
            with reward models of its own. Without it, the small embedded kitchen models answer, offline.
        reward_model: The multifurcation reward model (MRM): a directory or hub id.
        reward_base: The MRM's base model, where its directory names none that can be found.
        engine: A `SaffronEngine` to share instead.
        device, dtype, quantization, device_map, attn_implementation, quantization_config: How the weights are loaded.
        enforce_eager: Whether a GPU launches a step's kernels one by one, rather than as a CUDA graph.

    Key init args — decoding:
        effort: `"off"` (plain decoding), `"low"`, `"medium"`, `"high"` or `"max"`: how wide the search is; or
            `"auto"`: as wide as the danger asks, `"high"` at most, and with `step_back`.
        min_width: Beams that a search keeps at least where the KV cache has no room for all of them.
        width_floor: Beams below which neither that nor a budget narrows a search.
        step_back: Whether a search whose beams have all become unsafe goes back to what it did not take.
        verify: `"prm"`: `process_reward_model` reads every sentence before it is shown, and overrules the MRM.
        max_tokens, min_tokens, stop, temperature, top_p, seed: As everywhere.
        max_tflops, max_seconds, max_reward_calls, on_budget: What one request may cost.
        refusal_threshold: Nothing whose predicted safety reward lies below it is ever said.
        refusal_text: What is said where nothing else is left; without it, the model refuses in its own words.
        mask: `"strict"`, `"soft"` or `"off"`: what becomes of tokens that the reward model's training never showed;
            `"auto"` goes by how many it did.
        cache_salt: One a tenant, so that nobody can tell what others asked.
        response_format: What answers have to look like.
        shared_budget: A `SharedBudget` for several calls, such as the steps of an agent.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": False}`.
        tool_format: `"hermes"` for models whose chat template knows no tools.
        reward_thoughts: Whether the reward models see what the model thinks before it answers.

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

    Tool calling:
        ```python
        from langchain_core.tools import tool

        @tool
        def set_timer(minutes: int, dish: str) -> str:
            '''Set a kitchen timer.'''
            return f"The timer for the {dish} is set to {minutes} minutes."

        chat.bind_tools([set_timer]).invoke("Set a timer for 12 minutes for the soup.").tool_calls
        ```
        Needs `pip install 'langchain-saffron[agents]'`. A call that has begun can only end as one that fits its
        tool's schema; one that `max_tokens` or a budget cuts short is under `invalid_tool_calls`.

    Structured output:
        ```python
        from pydantic import BaseModel

        class Dish(BaseModel):
            dish: str
            minutes: int

        chat.with_structured_output(Dish).invoke("How do I make a tomato soup?")
        ```
        Also with `response_format=` for a JSON schema, regular expression or grammar.

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

    model_config = INTERFACE_CONFIG

    tool_format: str = "auto"
    """How the model writes tool calls: `"auto"` goes by its chat template, `"hermes"` works with any template."""

    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the chat template, such as `{"enable_thinking": False}` or `{"reasoning_effort": "low"}`; those of
    a call take the place of these."""

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        self._chosen_tool_format()
        check_variables(self.chat_template_kwargs)
        return self

    @property
    def _llm_type(self) -> str:
        return "saffron-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity()

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """A call's key in LangChain's cache: the fields, with its options in their place, and the tools that it has."""
        asked, model = self._with_call_options(kwargs)
        key = {"kind": self._llm_type, **model.identity(), **asked.options(), "stop": stop}
        return json.dumps(key, sort_keys=True, default=str)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=str(kwargs.get("model") or self.model_name),
            ls_model_type="chat",
            ls_temperature=kwargs.get("temperature", self.temperature),
        )
        if (max_tokens := kwargs.get("max_tokens", self.max_tokens)) is not None:
            params["ls_max_tokens"] = max_tokens
        # a wrong one is told of where the call is made
        if (strings := stop or self.stop) and isinstance(strings, Sequence):
            params["ls_stop"] = [strings] if isinstance(strings, str) else list(strings)
        return params

    def _resolve_model_profile(self) -> Any:
        files = local_facts(self.local_model()) or known_facts(self.model_name)
        cache: int | None = self.max_cache_tokens
        if self.engine is not None:
            files = ModelFacts(template_for_tools(self.engine.tokenizer.chat_template), self.engine.policy.context)
            cache = None
        rooms = [files.context, cache if files.context else None]
        if self.search_settings().needs_reward_model:
            rooms.append(self._reward_context())
        files = replace(files, context=min((room for room in rooms if room), default=None))
        if self.chat_template is not None:
            files = replace(files, chat_template=self.chat_template)
        return model_profile(files, self.tool_format, self.max_tokens)

    def _reward_context(self) -> int | None:
        """Tokens that there is room for in the reward model, if that is known without loading it."""
        source = self.reward_model if self._world is None or self.reward_model is not None else self._world.reward_model
        mrm = source if self.engine is None else self.engine.reward_model
        if isinstance(mrm, MultifurcationRewardModel):
            return mrm.decoder.context
        return mrm_context(local_path(mrm)) if isinstance(mrm, str | Path) else None

    def get_token_ids(self, text: str) -> list[int]:
        """The policy's tokens of a text."""
        return self.renderer().encode_plain(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """How many tokens these messages take as a prompt, the template's own included.

        A part of a conversation that is no prompt, such as one that ends on a call of a tool, is counted message by
        message. None are no tokens: `trim_messages` asks for that, too.
        """
        if not messages and not tools:
            return 0
        renderer = self.renderer()
        try:
            return len(
                renderer.render(messages, tool_request(tools).tools, variables=self.chat_template_kwargs).policy_ids
            )
        except PromptError:
            turns = [turn for one in to_turns(messages) for turn in one.as_reward_turns()]
            return sum(len(renderer.encode_plain(f"{role}\n{text}\n")) + AROUND_TURN for role, text in turns)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        A call that has begun can only end as one that fits its tool's schema.

        Args:
            tools: Functions, `BaseTool`s, classes, or schemas in any form that LangChain knows.
            tool_choice: `"auto"` (the default); `"any"`, `"required"` or `True`; the name of a tool, or OpenAI's dict
                for one; `"none"`.
            strict: Accepted for compatibility: arguments always fit their schema. `True` also asks LangChain for
                OpenAI's strict schemas.
            parallel_tool_calls: `False` for one call an answer at most.
            **kwargs: Other options of every call, such as `effort`.

        Raises:
            SettingsError: Something is no tool, `tool_choice` names none of them, or llguidance is not installed.
            GrammarError: A tool's schema cannot be followed; the message names the tool and the place.
        """
        GRAMMARS.require()
        request = tool_request(tools, tool_choice, parallel_tool_calls, strict)
        check_tools(request)
        return self.bind(**request.options(), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with answers that are objects.

        Args:
            schema: A Pydantic class, `TypedDict` or JSON schema; `None` is enough for `"json_mode"`.
            method: `"json_schema"` shows the model the schema and lets it write nothing else; `"function_calling"` has
                it call a tool of that schema; `"json_mode"` lets it write any JSON object: say in the prompt which.
            include_raw: Whether to return a dict of `raw` (the message), `parsed` and `parsing_error` instead.
            strict: Accepted for compatibility: documents always fit their schema.
            **kwargs: Other options of every call, such as `effort`.

        Returns:
            A runnable that gives an instance of a Pydantic class, else a dict. An answer that ends within its document
            is an `OutputParserException` (or a `parsing_error`) that says why; a refusal is a `ModelRefusalError`.

        Raises:
            SettingsError: The schema or method is unknown, or llguidance is not installed.
            GrammarError: The schema cannot be followed; the message names the place.
        """
        return structured(self, schema, method, include_raw, strict, kwargs)

    def outlook(self, input: LanguageModelInput, **options: Any) -> PromptRisk:
        """How safe this model's next words are likely to be: one forward of the prompt, which an answer then shares.

        Nothing is written. It tells how hard to search before anything is searched.

        Args:
            input: As for `invoke`.
            **options: As for `invoke`.

        Raises:
            RewardModelRequiredError: There is no reward model.
        """
        invocation = self._invocation(
            self._convert_input(input).to_messages(), None, {**options, "shared_budget": None}
        )
        return invocation.look_ahead()

    async def aoutlook(self, input: LanguageModelInput, **options: Any) -> PromptRisk:
        """The same without blocking the event loop."""
        return await asyncio.to_thread(self.outlook, input, **options)

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
        invocation = self._invocation(messages, stop, kwargs)
        return _result(invocation, invocation.run())

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        invocation = await asyncio.to_thread(self._invocation, messages, stop, kwargs)
        return _result(invocation, await invocation.arun())

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        invocation = self._invocation(messages, stop, kwargs)
        yield from invocation.stream_chunks(_chunks_of(invocation), run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        invocation = await asyncio.to_thread(self._invocation, messages, stop, kwargs)
        async with aclosing(invocation.astream_chunks(_chunks_of(invocation), run_manager)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _chosen_tool_format(self) -> ToolFormat | None:
        return None if self.tool_format == "auto" else get_tool_format(self.tool_format)

    def _with_call_options(self, options: dict[str, Any]) -> tuple[ToolRequest, Self]:
        asked = tool_request(*(options.get(name) for name in TOOL_OPTIONS))
        return asked, self.with_options({name: value for name, value in options.items() if name not in TOOL_OPTIONS})

    def _invocation(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> Invocation:
        """Everything that one call needs; loads the models if need be, so not for an event loop's thread."""
        asked, model = self._with_call_options(options)
        form = read_response_format(model.response_format)
        if form is not None and form.instruction is not None:
            messages = instructed(messages, form.instruction)
        renderer = model.renderer()
        # tools that must not be called are not shown either
        tools = asked.tools if asked.choice != "none" else ()
        prompt = renderer.render(messages, tools, model.load().context, model.chat_template_kwargs)
        tool_format = renderer.tool_format if tools else None
        grammar = answer_grammar(asked, tool_format, form)
        settings, share = model.budgeted_settings(stop)
        return Invocation(model, prompt, settings, prompt.prefill_ids, grammar, tool_format, tools, share)


def _chunks_of(invocation: Invocation) -> Callable[[str | SearchResult], Iterator[ChatGenerationChunk]]:
    reader = AnswerReader(invocation)
    return lambda item: (ChatGenerationChunk(message=message) for message in reader.chunks(item))


def _result(invocation: Invocation, result: SearchResult) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AnswerReader(invocation).message(result))])
