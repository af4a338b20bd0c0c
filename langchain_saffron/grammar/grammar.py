"""What an answer has to look like: plain data, which a `GrammarCompiler` makes a constraint of."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from langchain_saffron.errors import SettingsError

Kind = Literal["json_schema", "regex", "lark", "tagged", "parts"]


@dataclass(frozen=True, slots=True)
class Tag:
    """One way to call a tool, as text around JSON: `begin`, JSON that fits `schema`, `end`.

    Attributes:
        begin: The text before the JSON.
        schema: The JSON's schema.
        end: The text behind it.
        where: What errors call the schema.
    """

    begin: str
    schema: dict[str, Any]
    end: str
    where: str = "the tools' grammar"


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar of whole answers. Two of the same source are equal.

    JSON is written as `json.dumps` writes it: `", "` and `": "` between its parts, and no other white space.

    Attributes:
        kind: What `source` is.
        source: A JSON schema, a regular expression, llguidance's Lark, or the arguments of `tagged` or `parts` as JSON.
    """

    kind: Kind
    source: str

    @property
    def is_document(self) -> bool:
        """Whether it is that of a text, rather than of tool calls."""
        return self.kind in ("json_schema", "regex", "lark")

    def alternatives(self) -> "tuple[Grammar, Grammar] | None":
        """The calls and the document of `either`; `None` for others."""
        arguments = json.loads(self.source) if self.kind in ("tagged", "parts") else {}
        document = arguments.pop("document", None)
        return document and (Grammar(self.kind, _dumped(arguments)), Grammar(**document))

    @classmethod
    def json_schema(cls, schema: dict[str, Any]) -> "Grammar":
        """JSON that fits `schema`.

        Raises:
            SettingsError: The schema is not plain JSON.
        """
        return cls("json_schema", _dumped(schema))

    @classmethod
    def json_object(cls) -> "Grammar":
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        """Text that matches `pattern` from beginning to end; of Rust's syntax, without look-around."""
        return cls("regex", pattern)

    @classmethod
    def lark(cls, text: str) -> "Grammar":
        """Text that follows a grammar in llguidance's dialect of Lark."""
        return cls("lark", text)

    @classmethod
    def tagged(
        cls, tags: Sequence[Tag], *, trigger: str, text: bool, at_start: bool, many: bool, separator: str
    ) -> "Grammar":
        """Answers with tool calls.

        Args:
            tags: The ways to call; every `begin` starts with `trigger`.
            trigger: What a call begins with. Behind it a whole call has to follow, wherever it is written.
            text: Whether the answer may be, or begin with, free text. Without it there is at least one call, and
                nothing else.
            at_start: Whether a call can only begin the answer; text is then what does not begin with the trigger.
            many: Whether several calls may follow each other.
            separator: What stands between two calls.

        Raises:
            SettingsError: There are no tags, one does not begin with the trigger, or a schema is not plain JSON.
        """
        if not tags:
            raise SettingsError("a grammar of tool calls needs at least one tool")
        for tag in tags:
            if not trigger or not tag.begin.startswith(trigger):
                raise SettingsError(f"a call that begins with {tag.begin!r} does not begin with {trigger!r}")
        arguments = {
            "tags": [asdict(tag) for tag in tags],
            "trigger": trigger,
            "text": text,
            "at_start": at_start,
            "many": many,
            "separator": separator,
        }
        return cls("tagged", _dumped(arguments))

    @classmethod
    def parts(cls, rules: dict[str, list[list[list[Any]]]], *, text: bool, in_pieces: bool = False) -> "Grammar":
        """Answers put together of texts, JSON and regular expressions, as `PartsLark` has them.

        Args:
            rules: Alternatives of items by name; `start` is the whole answer.
            text: Whether the answer may be free text.
            in_pieces: Whether the texts are to be taken for JSON where a document of JSON may stand in their place.
        """
        return cls("parts", _dumped({"rules": rules, "text": text, "in_pieces": in_pieces}))

    @classmethod
    def either(cls, calls: "Grammar", document: "Grammar") -> "Grammar":
        """Tool calls and nothing else, or a document.

        Args:
            calls: Of `tagged` or `parts`, without free text.
            document: A JSON schema or a regular expression.

        Raises:
            SettingsError: They are of other kinds.
        """
        if document.kind not in ("json_schema", "regex"):
            raise SettingsError(f"tools can be combined with a JSON schema or a regex, not with {document.kind}")
        arguments = json.loads(calls.source) if calls.kind in ("tagged", "parts") else {"text": True}
        if arguments["text"]:
            raise SettingsError("a document can only stand in place of calls, not of free text")
        return cls(calls.kind, _dumped({**arguments, "document": asdict(document)}))


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"a JSON schema has to be plain JSON: {error}") from error
