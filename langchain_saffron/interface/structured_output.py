"""Answers as objects: what `ChatSaffron.with_structured_output` parses them by."""

import json
from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.json import parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.interface.refusals import ModelRefusalError
from langchain_saffron.interface.response_format import as_tool, document_schema, schema_of
from langchain_saffron.tools import tool_request
from langchain_saffron.tools.request import check_tools
from langchain_saffron.tools.schemas import WRAPPED
from langchain_saffron.tools.validation import beyond_grammar, misfit

Method = Literal["json_schema", "function_calling", "json_mode"]
# null is a document too
_NOTHING = object()
_REFUSED = "the model refused: {text}"
_CUT = {
    "length": "the answer reached max_tokens inside {what}: raise max_tokens",
    "budget": "the compute budget ran out inside {what}: raise it, or lower effort",
}


def why_cut(finish_reason: str, what: str) -> str | None:
    """Why an answer ended inside something, and what to do; `None` where it ended of its own accord or refused."""
    told = _CUT.get(finish_reason)
    return told and told.format(what=what)


class StructuredOutputParser(BaseTransformOutputParser[Any]):
    """Objects of a schema from an answer's JSON, or from its first call of a tool.

    A whole answer is read strictly: half a document is an error, never half an object. While an answer is streamed,
    what is there of it is given out, as LangChain's own parsers do.
    """

    target: Any = None
    """A Pydantic class, or anything else for plain dicts."""
    tool: str | None = None
    """The tool whose call is the document; `None`: the answer's text is."""
    wrapped: bool = False
    """Whether the document is all that the tool takes, as a call's arguments are an object and it need not be."""
    rules: Any = None
    """A JSON schema whose rules beyond the grammar's are looked at; `None` where there are none."""

    def parse(self, text: str) -> Any:
        """Parse an answer that is a document."""
        return self.parse_result([Generation(text=text)])

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer.

        Args:
            result: A list of one generation.
            partial: Whether it is still being written: then what cannot be read yet is `None`.

        Raises:
            ModelRefusalError: The search refused (`OutputParserException` before langchain-core 1.7.5).
            OutputParserException: There is no whole document, or it does not fit the class.
        """
        generation = result[0]
        message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
        if not partial:
            _raise_if_refused(message)
        document = self._of_call(message) if self.tool else _of_text(message, partial)
        if document is _NOTHING:
            if partial:
                return None
            raise OutputParserException(self._why(message), llm_output=message.text)
        # a class has its own: it makes a set of what is there twice
        unchecked = partial or self.rules is None or _is_class(self.target)
        why = None if unchecked else misfit(document, self.rules, "document")
        if why is not None:
            raise OutputParserException(f"the answer does not fit its schema: {why}", llm_output=message.text)
        return self._object(document, partial)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        progress = _Progress(self)
        for chunk in input:
            yield from progress.read(chunk)
        yield from progress.end()

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        progress = _Progress(self)
        async for chunk in input:
            for value in progress.read(chunk):
                yield value
        for value in progress.end():
            yield value

    def _of_call(self, message: BaseMessage) -> Any:
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        args: Any = next((call["args"] for call in calls if call["name"] == self.tool), _NOTHING)
        return args.get(WRAPPED, _NOTHING) if self.wrapped and args is not _NOTHING else args

    def _object(self, document: Any, partial: bool) -> Any:
        if not _is_class(self.target):
            return document
        try:
            if issubclass(self.target, BaseModel):
                return self.target.model_validate(document)
            of_first_version: Any = self.target
            return of_first_version.parse_obj(document)
        except (ValidationError, ValidationErrorV1) as error:
            if partial:
                return None
            text = json.dumps(document, ensure_ascii=False)
            raise OutputParserException(f"{text} is no {self.target.__name__}: {error}", llm_output=text) from error

    def _why(self, message: BaseMessage) -> str:
        reason = message.response_metadata.get("finish_reason", "stop")
        what, text = f"call of {self.tool!r}" if self.tool else "JSON document", message.text or "it is empty"
        told = _REFUSED.format(text=text) if reason == "refusal" else why_cut(reason, f"the {what}")
        if called := [call["name"] for call in getattr(message, "tool_calls", []) if told is None and not self.tool]:
            told = f"the model calls {', '.join(called)} first: answer that, or ask for include_raw"
        spoiled = [call["error"] for call in getattr(message, "invalid_tool_calls", []) if call["error"]]
        return "; ".join([told or f"the answer holds no {what}: {text}", *spoiled])


def structured(
    model: Any,
    schema: dict[str, Any] | type | None,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    options: dict[str, Any],
) -> Runnable[Any, Any]:
    """A chat model with answers that are objects; the arguments are those of `ChatSaffron.with_structured_output`.

    Raises:
        SettingsError: The schema or method is unknown, or llguidance is not installed.
    """
    GRAMMARS.require()
    if schema is None and method != "json_mode":
        raise SettingsError(f"with_structured_output: method {method!r} needs a schema")
    shown = {"kwargs": {"method": method, "strict": strict}, "schema": schema} if schema is not None else None
    parser = StructuredOutputParser(target=schema)
    if method == "function_calling":
        tool, parser.wrapped = as_tool(schema)
        request = tool_request([tool], strict=strict)
        (made,) = request.tools
        check_tools(request)
        parser.tool = made["function"]["name"]
        parser.rules = beyond_grammar(made["function"].get("parameters") if not parser.wrapped else schema_of(schema))
        bound = model.bind_tools(
            [made],
            tool_choice=parser.tool,
            parallel_tool_calls=False,
            ls_structured_output_format=shown,
            **options,
        )
    elif method in ("json_schema", "json_mode"):
        form: dict[str, Any] = {"type": "json_object"} if method == "json_mode" else document_schema(schema)
        if method == "json_schema":
            parser.rules = beyond_grammar(form["json_schema"]["schema"])
        bound = model.bind(response_format=form, ls_structured_output_format=shown, **options)
    else:
        raise SettingsError(
            f"with_structured_output: method {method!r} is not 'json_schema', 'function_calling' or 'json_mode'"
        )
    return _parsed(bound, parser, include_raw)


def _parsed(model: Runnable[Any, AIMessage], parser: StructuredOutputParser, include_raw: bool) -> Runnable[Any, Any]:
    """A model with its parser; with `include_raw` it gives the message and any parsing error as well."""
    if not include_raw:
        return model | parser
    read = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | read.with_fallbacks([failed], exception_key="parsing_error")


class _Progress:
    """A stream of chunks on its way to an object."""

    def __init__(self, parser: StructuredOutputParser) -> None:
        self._parser = parser
        self._message: Any = None
        self._last: Any = None

    def read(self, chunk: str | BaseMessage) -> Iterator[Any]:
        """Add a chunk; gives what is there by now, if that is new."""
        message = AIMessage(chunk) if isinstance(chunk, str) else chunk
        self._message = message if self._message is None else self._message + message
        yield from self._news(partial=True)

    def end(self) -> Iterator[Any]:
        """The whole answer, read strictly."""
        if self._message is not None:
            yield from self._news(partial=False)

    def _news(self, partial: bool) -> Iterator[Any]:
        value = self._parser.parse_result([ChatGeneration(message=self._message)], partial=partial)
        if value is not None and value != self._last:
            self._last = value
            yield value


def _is_class(target: Any) -> bool:
    return isinstance(target, type) and is_basemodel_subclass(target)


def _of_text(message: BaseMessage, partial: bool) -> Any:
    text = message.text.strip()
    try:
        value = parse_partial_json(text) if partial else json.loads(text)
    except json.JSONDecodeError:
        return _NOTHING
    # half a number or word is none yet
    return value if not partial or isinstance(value, dict | list) else _NOTHING


def _raise_if_refused(message: BaseMessage) -> None:
    text = message.additional_kwargs.get("refusal")
    if text is None:
        return
    told = _REFUSED.format(text=text)
    if ModelRefusalError is None:
        raise OutputParserException(told, llm_output=message.text)
    raise ModelRefusalError(told, raw_message=message)
