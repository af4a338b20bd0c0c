"""From what the engine gives to LangChain's messages: text, tool calls, metadata."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import (
    InvalidToolCall,
    ToolCall,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)

from langchain_saffron.engine import MarkerText, RefusalText, SearchResult, ThoughtText
from langchain_saffron.interface.content import Content
from langchain_saffron.interface.invocation import Invocation
from langchain_saffron.interface.refusals import PROVIDER, refusal_kwargs
from langchain_saffron.interface.structured_output import why_cut
from langchain_saffron.tools import Answer, Call, CallPiece, Event, Said

_REFUSED = "the search refused inside this call"


class AnswerReader:
    """Reads one answer; without tools its text passes as it is."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        form = invocation.tool_format
        tokenizer = invocation.model.load().tokenizer
        # one chunk says so, the one with the text, if there is any
        self._refused = False
        self._content = Content()
        self._parser = (
            form.parser(tokenizer, tools=invocation.tools, prompt_ids=_before_the_text(invocation, tokenizer))
            if form
            else None
        )

    def message(self, result: SearchResult) -> AIMessage:
        """The whole answer, of which nothing was read yet."""
        refusal = result.refusal or ""
        *before, last = result.parts or [result.text]
        if not isinstance(last, ThoughtText | MarkerText):
            last = last.removesuffix(refusal)
        answer, content = Answer(), Content()
        for piece in (*before, last, RefusalText(refusal, result.refusal_category)):
            if isinstance(piece, ThoughtText):
                content.think(piece)
            elif piece:
                for event in self._events(piece):
                    answer.add(event)
                    content.say(event)
        for event in self._end(result):
            answer.add(event)
            content.say(event)
        return AIMessage(
            content=content.whole(),
            tool_calls=[_tool_call(call) for call in answer.calls if not call.error],
            invalid_tool_calls=[_spoiled(call) for call in answer.calls if call.error],
            response_metadata=self._metadata(result),
            usage_metadata=self._usage(result),
            additional_kwargs=self._refusal(result),
        )

    def chunks(self, item: str | SearchResult) -> Iterator[AIMessageChunk]:
        """The next piece of the answer as chunks; the result is the last of them."""
        if isinstance(item, ThoughtText):
            yield AIMessageChunk(content=[self._content.think(item)])
            return
        if isinstance(item, str):
            for event in self._events(item):
                chunk = self._chunk(event)
                if isinstance(item, RefusalText) and chunk.content:
                    self._refused = True
                    chunk.additional_kwargs = refusal_kwargs(self._refusal_of(item))
                    chunk.response_metadata = {"model_provider": PROVIDER, "refusal_category": item.category}
                yield chunk
            return
        yield from map(self._chunk, self._end(item))
        # numbers and names on exactly one chunk: LangChain adds chunks up
        yield AIMessageChunk(
            content="",
            response_metadata=self._metadata(item),
            usage_metadata=self._usage(item),
            additional_kwargs={} if self._refused else self._refusal(item),
            chunk_position="last",
        )

    def _events(self, text: str) -> Iterator[Event]:
        if self._parser is None:
            yield Said(text)
        elif isinstance(text, RefusalText):
            # not the model's: it ends whatever the model was writing
            yield from self._finish(_REFUSED)
            yield Said(text)
        else:
            yield from self._parser.feed(str(text))

    def _end(self, result: SearchResult) -> Iterator[Event]:
        if self._parser is not None:
            said = result.token_ids if result.said_ids is None else result.said_ids
            token_text = self._invocation.model.load().tokenizer.decode(said)
            cut = _REFUSED if result.finish_reason == "refusal" else why_cut(result.finish_reason, "this call")
            yield from self._finish(cut, token_text)

    def _finish(self, cut: str | None, token_text: str = "") -> Iterator[Event]:
        parser, self._parser = self._parser, None
        if parser is not None:
            yield from parser.finish(cut, token_text)

    def _metadata(self, result: SearchResult) -> dict[str, Any]:
        # on one chunk: LangChain adds strings up
        refuses = result.refusal is not None and not self._refused
        why = {"refusal_category": result.refusal_category} if refuses else {}
        return {"model_provider": PROVIDER, **self._invocation.model.metadata_of(result), **why}

    def _refusal(self, result: SearchResult) -> dict[str, Any]:
        return {} if result.refusal is None else refusal_kwargs(result.refusal)

    def _refusal_of(self, piece: RefusalText) -> str:
        """The words of a streamed refusal: a space before them is the answer's."""
        canned = self._invocation.settings.refusal_text
        return piece.lstrip() if canned is None else canned

    def _usage(self, result: SearchResult) -> UsageMetadata:
        prompt, answer = len(self._invocation.prompt.policy_ids), len(result.token_ids)
        usage = UsageMetadata(
            input_tokens=prompt,
            output_tokens=answer,
            total_tokens=prompt + answer,
            input_token_details=InputTokenDetails(cache_read=result.stats.cached_prompt),
        )
        if result.thought_tokens is not None:
            usage["output_token_details"] = OutputTokenDetails(reasoning=result.thought_tokens)
        return usage

    def _chunk(self, event: Event) -> AIMessageChunk:
        # never text and a call in one chunk: listeners look at one of them
        if isinstance(event, Said):
            return AIMessageChunk(content=self._content.say(event) or "")
        if isinstance(event, CallPiece):
            piece = tool_call_chunk(name=event.name, args=event.args, id=event.id, index=event.index)
            return AIMessageChunk(content="", tool_call_chunks=[piece])
        return AIMessageChunk(content="")


def _before_the_text(invocation: Invocation, tokenizer: Any) -> Sequence[int]:
    """What the answer's text follows: the prompt, and the end of the thought that its header began."""
    prompt = invocation.prompt
    if prompt.thoughts is None or prompt.thoughts.place != "inside":
        return prompt.policy_ids
    end: list[int] = tokenizer(prompt.thoughts.markers.form.closing, add_special_tokens=False).input_ids
    return *prompt.policy_ids, *end


def _tool_call(call: Call) -> ToolCall:
    return tool_call(name=call.name or "", args=json.loads(call.args, strict=False), id=call.id)


def _spoiled(call: Call) -> InvalidToolCall:
    return invalid_tool_call(name=call.name, args=call.args, id=call.id, error=call.error)
