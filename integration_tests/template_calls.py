"""Tool calls of a chat template: written by a walk through the grammar, and held against what transformers renders."""

import json
import random
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from integration_tests.template_cell import Cell, Wrong, first_difference
from integration_tests.template_reference import SPECIAL_MARKER, Messages, Reference, Unrendered
from langchain_saffron.engine.marker_signs import MarkerSigns
from langchain_saffron.engine.result import ThoughtText
from langchain_saffron.engine.text_stream import TextStream
from langchain_saffron.engine.thought_stream import ThoughtStream
from langchain_saffron.errors import GrammarError, PromptError
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.tools import Answer, tool_request

Calls = list[tuple[str, dict[str, Any]]]

_WEATHER = {
    "place": {"type": "string", "description": "Where."},
    "days": {"type": "integer", "minimum": 1, "maximum": 99, "description": "How long."},
    "wet": {"type": "boolean", "description": "Rain."},
    "near": {"type": "array", "items": {"type": "string"}, "description": "Others."},
    "unit": {"type": "string", "enum": ["C", "F"], "description": "Unit."},
    "deep": {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {"type": "string"}},
        "description": "More.",
    },
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Perhaps."},
}
_SCHEMA = {"type": "object", "properties": _WEATHER, "required": ["place"]}
_BARE = {"type": "object", "properties": {}, "required": []}
TOOLS = tool_request(
    [
        {"name": "weather", "description": "The weather.", "parameters": _SCHEMA},
        {"name": "weather_now", "description": "Now.", "parameters": _BARE},
    ]
).tools
# what walks may write: numbers have several ways to be written, and fractions come below
_WALKED = {key: value for key, value in _WEATHER.items() if key != "deep"}
_WALKS = tool_request(
    [
        {"name": "weather", "description": "The weather.", "parameters": {**_SCHEMA, "properties": _WALKED}},
        {"name": "weather_now", "description": "Now.", "parameters": _BARE},
    ]
).tools
SINGLE: tuple[Calls, ...] = (
    [("weather", {"place": "Paris"})],
    [("weather_now", {})],
    [("weather", {"place": "Nice, \"F\" é <b> & {x}: [1]\ns", "days": 3, "wet": True, "unit": "F", "maybe": None})],
    [("weather", {"place": "12", "wet": False, "near": ["a", "b, c"], "deep": {"x": 1.5, "y": "z"}, "maybe": "None!"})],
    [("weather", {"place": "it's \\ 你好 😀", "near": [], "deep": {}})],
)  # fmt: skip
SEVERAL: tuple[Calls, ...] = (
    [("weather", {"place": "A", "days": 1}), ("weather_now", {})],
    [("weather_now", {}), ("weather", {"place": "B"}), ("weather", {"place": "C", "wet": True})],
)
_IDS = ("abcdefgh1", "abcdefgh2", "abcdefgh3")
_QUESTION, _RESULT, _ASIDE = "How is it there?", "sunny", "Let me see."
_FREE = ("Just <b>text</b>, no call.", "Line one\nand two; [none].")
_STEPS = 240


class CallCheck:
    """Measures the calls of one template with one tokenizer."""

    def __init__(self, renderer: PromptRenderer, reference: Reference) -> None:
        self.renderer = renderer
        self.reference = reference
        self._compiler = GrammarCompiler(
            reference.tokenizer, len(reference.tokenizer), [reference.tokenizer.eos_token_id]
        )

    @cached_property
    def shown(self) -> bool:
        """Whether the template shows tools, by transformers alone."""
        try:
            self.reference.text([{"role": "user", "content": _QUESTION}], TOOLS, [_QUESTION, "weather_now", "Where."])
        except Unrendered:
            return False
        return True

    def choice(self, choice: str) -> Cell:
        """`"auto"`, `"any"` or the name of a tool."""
        if not self.shown:
            return self._absent()
        form = self.renderer.tool_format
        root = self._compiler.compile(form.grammar(TOOLS, choice, True))
        for calls, text in self.texts:
            others = choice not in ("auto", "any") and any(name != choice for name, _ in calls)
            if others or (len(calls) > 1 and choice not in ("auto", "any")):
                if self._accepts(root, text):
                    raise Wrong(f"{choice} allows {text!r}")
                continue
            if not self._accepts(root, text):
                raise Wrong(f"the grammar refuses {text!r}")
            self._read(text, calls)
            aside = f"{_ASIDE}\n{text}"
            # what only brackets mark has to come first
            if choice == "auto" and text.lstrip()[0] not in "[{" and not self._ends_thought(text):
                if not self._accepts(root, aside):
                    raise Wrong(f"the grammar refuses {aside!r}")
                self._read(aside, calls, _ASIDE)
        for text in ("", *_FREE):
            if self._accepts(root, text) is not (choice == "auto" and bool(text)) and text:
                raise Wrong(f"{text!r} is {'refused' if choice == 'auto' else 'allowed'}")
            if text and choice == "auto":
                self._read(text, [], text)
        return Cell(reason=self._note)

    def history(self) -> Cell:
        """Calls and results that were made before."""
        if not self.shown:
            return self._absent()
        self.written = {repr(calls): text for calls, text in self.texts}
        walked = [(calls, ids) for calls, _, ids in self._walked] if self._note else []
        given = [(calls, list(_IDS)) for calls in (*SINGLE, *(SEVERAL if self.several else ()))]
        try:
            for calls, ids in given + walked:
                for after in ((), ("It is sunny.", "Thanks.")):
                    self._remembered(calls, ids, after)
        except PromptError as error:
            if self._shows_results or 'tool_format="hermes"' not in str(error):
                raise
            return Cell.absent("its template leaves results out, and the error says what to do")
        return Cell(reason=self._note)

    @property
    def _shows_results(self) -> bool:
        calls = SINGLE[0]
        try:
            self.reference.text([*_dicts(calls), *_results(calls)], TOOLS, [_RESULT + "0"], _QUESTION)
        except Unrendered:
            return False
        return True

    @cached_property
    def texts(self) -> list[tuple[Calls, str]]:
        """Calls, and the text that the template writes for each."""
        heads, tail = self._frame
        return [one for head in heads for one in self._within(head, tail)] or [
            (calls, text) for calls, text, _ in self._walked
        ]

    def _within(self, head: str, tail: str) -> list[tuple[Calls, str]]:
        found: list[tuple[Calls, str]] = []
        for calls in (*SINGLE, *SEVERAL):
            try:
                whole = self._rendered(calls, _IDS, TOOLS)
            except Unrendered:
                if len(calls) > 1:
                    continue
                raise
            text, ended, _ = whole.removeprefix(head).partition(tail) if tail else (whole.removeprefix(head), "x", "")
            if not (whole.startswith(head) and ended):
                if len(calls) > 1:
                    continue
                raise Wrong(f"…{whole[-160:]!r} has not the frame of other calls: …{head[-40:]!r}, {tail!r}")
            if len(calls) > 1 and (text.count("weather") < len(calls) or not self._is_one_turn(text, tail)):
                continue
            if not _is_unescaped(calls, text):
                found.append((calls, text))
        return found

    def _rendered(self, calls: Calls, ids: Sequence[str], tools: Sequence[Any]) -> str:
        """What the template makes of calls, up to their end where results are needed to show it."""
        said = _dicts(calls, ids) + (_results(calls, ids) if self._with_results else [])
        shown = [*(name for name, _ in calls), *([_RESULT] if self._with_results else [])]
        whole = self.reference.text(said, tools, shown, _QUESTION, self._told)
        return whole.rpartition(_RESULT + "0")[0] if self._with_results else whole

    _with_results = False

    @property
    def _told(self) -> str:
        return "Where." if self.shown else ""

    @cached_property
    def several(self) -> bool:
        """Whether an answer may hold several calls."""
        return any(len(calls) > 1 for calls, _ in self.texts)

    @cached_property
    def _frame(self) -> tuple[list[str], str]:
        """What the template writes around every call that the grammar has written."""
        asked = self.reference.text(_dicts([])[:1], _WALKS, [_QUESTION], also=self._told, add_generation_prompt=True)
        heads, tails, exact = set(), set(), True
        for calls, text, ids in self._walked:
            whole, place = self._found(calls, text, ids)
            if place < 0:
                self._with_results = not tails
                whole, place = self._found(calls, text, ids)
            if place < 0:
                self._note = self._own_word(calls, text, ids)
                return [], ""
            between = whole[len(asked) : place] if whole.startswith(asked) else ""
            # whole thoughts may stand there, empty ones too
            exact = exact and (not between or self._ends_thought(between))
            heads.add(whole[:place].rpartition(_QUESTION)[2])
            tails.add(whole[place + len(text) :])
        # results may name the call
        tail = _common_start(tails)
        if not (tail or tails == {""}) or (len(tails) > 1 and not self._with_results):
            raise Wrong(f"what stands behind calls differs: {[one[:60] for one in tails]}")
        if len(heads) > 1 and asked.rpartition(_QUESTION)[2] not in heads:
            raise Wrong(f"what stands before calls differs: {[one[-40:] for one in heads]}")
        if len(heads) == 1 and not exact:
            raise Wrong(f"behind {asked[-40:]!r} calls begin otherwise than in {[one[-40:] for one in heads]}")
        # walks were shown other tools
        begin = self._rendered(SINGLE[0], _IDS, TOOLS).rpartition(_QUESTION)[0] + _QUESTION
        return [begin + head for head in sorted(heads)], tail

    def _found(self, calls: Calls, text: str, ids: list[str]) -> tuple[str, int]:
        try:
            whole = self._rendered(calls, ids, _WALKS)
        except Unrendered:
            return "", -1
        return whole, whole.rfind(text)

    _note = ""

    @cached_property
    def _in_ascii(self) -> bool:
        """Whether the template escapes other characters, which JSON leaves to whoever writes it."""
        try:
            return "\\u00e9" in self._rendered([("weather", {"place": "é"})], _IDS, TOOLS)
        except Unrendered:
            return False

    @cached_property
    def _walked(self) -> list[tuple[Calls, str, list[str]]]:
        form = self.renderer.tool_format
        root = self._compiler.compile(form.grammar(_WALKS, "any", False))
        found = []
        for seed in range(14):
            text = _walk(root, self.reference.tokenizer, random.Random(seed), self._in_ascii)
            if text is not None:
                calls, ids = self._parsed(text)
                found.append((calls, text, ids))
        if len(found) < 3:
            raise Wrong(f"only {len(found)} of 14 walks through the grammar came to an end")
        return found

    def _own_word(self, calls: Calls, text: str, ids: list[str]) -> str:
        """Why the template does not write a call that the grammar has: it leaves calls out, or forgets quotes."""
        self._with_results = False
        try:
            whole = self._rendered(calls, ids, _WALKS)
        except Unrendered:
            return "by the model's card: its template leaves calls out"
        if self._safely_parsed(whole[whole.rfind(_QUESTION) + len(_QUESTION) :])[0] == calls:
            raise Wrong(f"the grammar writes {text!r}, the template …{whole[-160:]!r}")
        return "by the model's card: its template writes calls that cannot be read back"

    def _remembered(self, calls: Calls, ids: list[str], after: Sequence[str]) -> None:
        said = [*_dicts(calls, ids), *_results(calls, ids)]
        messages: list[BaseMessage] = [HumanMessage(_QUESTION), AIMessage("", tool_calls=_lang(calls, ids))]
        messages += [ToolMessage(_RESULT + str(i), tool_call_id=ids[i], name=n) for i, (n, _) in enumerate(calls)]
        for place, text in enumerate(after):
            said.append({"role": "user" if place % 2 else "assistant", "content": text})
            messages.append(HumanMessage(text) if place % 2 else AIMessage(text))
        got = list(self.renderer.render(messages, list(TOOLS)).policy_ids)
        decoded = self.reference.tokenizer.decode(got)
        results = [_RESULT + str(i) for i in range(len(calls))]
        if any(one not in decoded for one in results):
            raise Wrong("a result is missing")
        if self._note:
            if (written := self.written.get(repr(calls))) is not None and written.strip() not in decoded:
                raise Wrong(f"the calls are shown as …{decoded[-260:]!r}, not as {written!r}")
            return
        wanted = self.reference.text(
            said, TOOLS, [calls[0][0], *results, *after], _QUESTION, self._told, add_generation_prompt=True
        )
        if got != self.reference.ids(wanted) and not _is_unescaped(calls, wanted):
            raise Wrong(first_difference(decoded, wanted))

    def _is_one_turn(self, text: str, tail: str) -> bool:
        question = _dicts([])[:1]
        asked = self.reference.text(question, None, [_QUESTION], add_generation_prompt=True)
        header = asked.removeprefix(self.reference.text(question, None, [_QUESTION])).strip()
        return not any(one and one in text for one in (*SPECIAL_MARKER.findall(tail)[:1], header))

    def _absent(self) -> Cell:
        if self.renderer.knows_tools:
            raise Wrong("it is taken for a template that shows tools")
        try:
            self.renderer.tool_format  # noqa: B018
        except PromptError as error:
            if 'tool_format="hermes"' in str(error):
                return Cell.absent("its template shows no tools")
        raise Wrong("no error says what to do without tools")

    def _accepts(self, root: Any, text: str) -> bool:
        state = root.copy()
        try:
            for token in self.reference.ids(text):
                state = state.advance(token)
        except GrammarError:
            return False
        return bool(state.accepting)

    def _read(self, text: str, calls: Calls, content: str = "") -> None:
        tokenizer, form = self.reference.tokenizer, self.renderer.tool_format
        ids, thoughts = self.reference.ids(text), self._thoughts
        # markers that are tokens come by their names, where they stand
        markers = MarkerSigns(form.markers(tokenizer))
        stream: TextStream | ThoughtStream = TextStream(tokenizer, markers=markers)
        if thoughts is not None:
            stream = ThoughtStream(tokenizer, thoughts, markers=markers)
            closing = thoughts.markers.form.closing
            if thoughts.place == "inside" and closing not in text:
                # the header has begun a thought, which comes first
                ids = self.reference.ids(f"Hm.\n{closing}\n\n") + ids
        pieces = [*stream.pieces(ids), *stream.last_pieces()]
        given = "".join(piece for piece in pieces if not isinstance(piece, ThoughtText))
        for size in (1, 5, len(given) + 1):
            parser = form.parser(tools=TOOLS)
            pieces = [given[place : place + size] for place in range(0, len(given), size)]
            answer = Answer.of([*(event for piece in pieces for event in parser.feed(piece)), *parser.finish()])
            got = [(one.name, one.error or json.loads(one.args)) for one in answer.calls]
            if got != calls or answer.content.strip() != content.strip():
                raise Wrong(f"{text!r} is read as {got} and text {answer.content!r}")

    @cached_property
    def _thoughts(self) -> Any:
        return self.renderer.render([HumanMessage(_QUESTION)], list(TOOLS)).thoughts

    def _ends_thought(self, text: str) -> bool:
        return self._thoughts is not None and self._thoughts.markers.form.closing in text

    def _parsed(self, text: str) -> tuple[Calls, list[str]]:
        calls, ids = self._safely_parsed(text)
        if not calls:
            raise Wrong(f"what the grammar has written is no call: {text!r}")
        return calls, ids

    def _safely_parsed(self, text: str) -> tuple[Calls, list[str]]:
        parser = self.renderer.tool_format.parser(None, tools=TOOLS)
        answer = Answer.of([*parser.feed(text), *parser.finish(None, text)])
        whole = [one for one in answer.calls if not one.error]
        # ids that the model has not written are made up, and long
        ids = [one.id if len(one.id) == len(_IDS[0]) else made for one, made in zip(whole, _IDS, strict=False)]
        return [(str(one.name), json.loads(one.args)) for one in whole], ids


def _common_start(texts: Collection[str]) -> str:
    first, last = min(texts), max(texts)
    return next((first[:i] for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), first)


def _is_unescaped(calls: Calls, text: str) -> bool:
    """Whether a template has put a string between quotes that holds some itself: nobody can read that."""
    values = [value for _, arguments in calls for value in arguments.values() if isinstance(value, str)]
    return any(f"={quote}{value}{quote}" in text for value in values for quote in "'\"" if quote in value)


def _walk(root: Any, tokenizer: Any, rng: random.Random, in_ascii: bool) -> str | None:
    """A text that the grammar allows, chosen token by token; `None` where it does not end."""
    state, ids = root.copy(), list[int]()
    words = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    # several ways to write one character (JSON may escape it or not), halves of characters
    # and what Llama 3 may begin calls with, though its template never does
    shunned = {t for t, word in enumerate(words) if "\\" in word or "\ufffd" in word or word == "<|python_tag|>"}
    shunned |= {token for token, word in enumerate(words) if in_ascii and not word.isascii()}
    wanted = {token for token, word in enumerate(words) if word and set(word) <= set("\"'}])>,</")}
    for _ in range(_STEPS):
        allowed = state.allowed([state])[0]
        if state.accepting:
            return str(tokenizer.decode(ids))
        choices = allowed.nonzero().flatten().tolist()
        if not choices:
            return None
        choices = [token for token in choices if token not in shunned] or choices
        ending = [token for token in choices if token in wanted]
        token = rng.choice(ending) if ending and rng.random() < 0.3 else rng.choice(choices)
        state = state.advance(token)
        ids.append(token)
    return None


def _dicts(calls: Calls, ids: Sequence[str] = _IDS) -> Messages:
    made = [
        {"type": "function", "id": identifier, "function": {"name": name, "arguments": arguments}}
        for (name, arguments), identifier in zip(calls, ids, strict=False)
    ]
    return [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": "", "tool_calls": made}]


def _results(calls: Calls, ids: Sequence[str] = _IDS) -> Messages:
    return [
        {"role": "tool", "content": _RESULT + str(place), "tool_call_id": ids[place], "name": name}
        for place, (name, _) in enumerate(calls)
    ]


def _lang(calls: Calls, ids: Sequence[str]) -> list[Any]:
    return [{"name": name, "args": args, "id": i} for (name, args), i in zip(calls, ids, strict=False)]
