"""The grammar of answers with calls of a form."""

import re
from collections.abc import Sequence
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.literals import text_literal
from langchain_saffron.tools.call_form import CallForm, JsonArguments, Part, Slot
from langchain_saffron.tools.parameter_grammar import Item, ParameterGrammar, Rules
from langchain_saffron.tools.request import arguments_schema

# calls that count themselves: so many may follow each other
_NUMBERED = 16
_ID: Item = ["lark", "/[a-zA-Z0-9]{9}/"]


def form_grammar(form: CallForm, tools: Sequence[dict[str, Any]], choice: str, parallel: bool) -> Grammar:
    """Free text until a call begins, or nothing but calls; their arguments follow the tools' schemas.

    Args:
        form: How calls are written.
        tools: In OpenAI's form.
        choice: `"auto"`, `"any"` or the name of a tool.
        parallel: Whether several calls may follow each other.

    Raises:
        SettingsError: No tool has that name.
    """
    named = choice not in ("auto", "any")
    chosen = [tool for tool in tools if not named or tool["function"]["name"] == choice]
    if not chosen:
        raise SettingsError(f"tool_choice: no tool is named {choice!r}" if named else "tool_choice: there are no tools")
    many = parallel and not named and form.between is not None
    return _FormGrammar(form, chosen, many).grammar(text=choice == "auto")


class _FormGrammar:
    def __init__(self, form: CallForm, tools: Sequence[dict[str, Any]], many: bool) -> None:
        self._form = form
        self._tools = tools
        self._many = many
        self._numbered = Slot.INDEX in form.call
        self._ways: tuple[tuple[Part, ...], ...] = (form.call,)
        self._rules: Rules = {"start": []}

    def grammar(self, text: bool) -> Grammar:
        for place, tool in enumerate(self._tools):
            self._rules[f"arguments_{place}"] = self._arguments(place, arguments_schema(tool))
        # a call that has to come is written as the template does; one that a model begins itself goes on its way
        self._ways = self._form.calls if text else self._ways
        self._calls()
        if not text:
            self._start_with_call()
        elif self._form.bare:
            self._start_bare()
        else:
            trigger = self._form.trigger
            rest = self._form.opening.removeprefix(trigger)
            self._rules["start"] = [[["prose", trigger]], [["head", trigger], ["text", rest], ["rule", "calls_0"]]]
        return Grammar.parts(self._rules, text=text, in_pieces=self._form.bare)

    def _start_with_call(self) -> None:
        lead, opening = self._form.lead, self._form.opening
        self._rules["start"] = [[["text", lead + opening], ["rule", "calls_0"]]]
        if lead.strip():
            # the end of empty thoughts, where the prompt has begun any
            self._rules["start"].append([["text", opening], ["rule", "calls_0"]])

    def _start_bare(self) -> None:
        """One lexeme up to the name and what follows it: text and calls are told apart there."""
        opening, follows = self._form.opening, self._form.call[1] if len(self._form.call) > 1 else ""
        follows = re.split(r"<", follows)[0] if isinstance(follows, str) else ""
        heads = []
        for place, tool in enumerate(self._tools):
            head = opening + tool["function"]["name"] + follows
            heads.append(text_literal(head))
            self._rules[f"HEAD_{place}"] = [[["lark", rf"/[ \t\r\n]{{0,4}}/ {heads[-1]}"]]]
            rest = list(self._form.call[1:])
            if follows:
                rest[0] = str(rest[0]).removeprefix(follows)
            items = [["rule", f"HEAD_{place}"], *self._items(rest, place, 0), ["rule", "more_0"]]
            self._rules["start"].append(items)
        some = " | ".join(heads)
        self._rules["TEXT"] = [[["lark", rf"/(?s:.*)/ & ~(/[ \t\r\n]*/ ({some}) /(?s:.*)/)"]]]
        self._rules["start"].append([["rule", "TEXT"]])

    def _calls(self) -> None:
        """Calls from the first slot on, and what stands between and behind them."""
        counts = _NUMBERED if self._numbered and self._many else 1
        for count in range(counts):
            following = count + 1 if self._numbered else 0
            more: list[list[Item]] = [[["text", self._form.closing]]]
            if self._many and following < counts:
                more.append([["text", self._form.between], ["rule", f"calls_{following}"]])
            self._rules[f"calls_{count}"] = [[["rule", f"call_{count}"], ["rule", f"more_{count}"]]]
            self._rules[f"more_{count}"] = more
            self._rules[f"call_{count}"] = [
                self._items(call, place, count) for call in self._ways for place in range(len(self._tools))
            ]

    def _items(self, parts: Sequence[Part], place: int, count: int) -> list[Item]:
        items: list[Item] = []
        for part in parts:
            if part is Slot.ARGUMENTS:
                items.append(["rule", f"arguments_{place}"])
            elif part is Slot.ID:
                items.append(_ID)
            else:
                text = self._tools[place]["function"]["name"] if part is Slot.NAME else part
                text = str(count) if part is Slot.INDEX else text
                if items and items[-1][0] == "text":
                    items[-1] = ["text", items[-1][1] + text]
                else:
                    items.append(["text", text])
        return items

    def _arguments(self, place: int, schema: dict[str, Any]) -> list[list[Item]]:
        style = self._form.arguments
        name = self._tools[place]["function"]["name"]
        if isinstance(style, JsonArguments):
            return [[["json", schema, style.item, style.key, f"tool {name!r}"]]]
        return ParameterGrammar(style, self._rules, schema, f"p{place}", name).arguments()
