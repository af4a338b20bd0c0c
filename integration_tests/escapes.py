"""Tries to make text of users into control tokens, everywhere in a conversation, and counts what gets through.

Run with `python -m integration_tests.escapes --attempts 200000`; `--tokenizers` and `--templates` are folders of real
ones: a folder a tokenizer, and `.jinja` files at any depth.

A prompt is judged by the one for the same conversation with harmless words, which is taken apart at these words: in
between there have to stand the same control tokens and the same text, and in place of the words what was said.
"""

import argparse
import hashlib
import html
import itertools
import json
import random
import re
import sys
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from tokenizers import AddedToken

from integration_tests.hostile_texts import HostileTexts, markers_of
from langchain_saffron.errors import PromptError
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.safe_encoder import replace_surrogates, safe_encoder
from langchain_saffron.tools import get_tool_format

Say = Callable[[], str]
Conversation = tuple[list[BaseMessage], list[dict[str, Any]] | None, dict[str, Any] | None]
Kind = Callable[[Say, Say], Conversation]
WORD = "zq{}kx"
# Python chooses its quotes by what is between them
_QUOTED = re.compile(r"('?)zq(\d+)kx('?)")


def _plain(say: Say, halves: Say) -> Conversation:
    blocks = [
        {"type": "text", "text": halves()},
        {"type": "text", "text": halves()},
        {"type": "text-plain", "text": say(), "title": say()},
    ]
    return [SystemMessage(say()), HumanMessage(say()), AIMessage(say()), HumanMessage(blocks)], None, None


def _adjacent(say: Say, halves: Say) -> Conversation:
    """Neighbours, which templates that want turns to alternate get as one."""
    return [HumanMessage(halves()), HumanMessage(halves()), AIMessage(say()), HumanMessage(say())], None, None


def _prefill(say: Say, halves: Say) -> Conversation:
    return [HumanMessage(say()), AIMessage(say()), HumanMessage(halves()), AIMessage(halves())], None, None


def _rewritten_prefill(say: Say, halves: Say) -> Conversation:
    """Templates that strip an answer get a prefill with a blank at its end behind their generation prompt instead."""
    *before, last = _prefill(say, halves)[0]
    return [*before, AIMessage(f"{last.content}\n")], None, None


def _thoughts(say: Say, halves: Say) -> Conversation:
    answer = AIMessage([{"type": "reasoning", "reasoning": halves()}, {"type": "text", "text": halves()}])
    later = AIMessage(say(), additional_kwargs={"reasoning_content": say()})
    return [HumanMessage(say()), answer, HumanMessage(say()), later, HumanMessage(say())], None, None


def _variables(say: Say, halves: Say) -> Conversation:
    names = ("custom_instructions", "date_string", "system_prompt", "reasoning_effort", "builtin_tools", "documents")
    values: dict[str, Any] = {name: say() for name in names[:4]}
    values["builtin_tools"] = [say()]
    values["documents"] = [{"title": say(), "text": say(), "content": say()}]
    return [HumanMessage(say())], None, values


def _tools(say: Say, halves: Say) -> Conversation:
    parameters = {
        "type": "object",
        "description": say(),
        "properties": {
            say(): {"type": "string", "description": say(), "enum": [say(), say()]},
            "many": {"type": "array", "items": {"type": "string", "title": say()}, "default": [say()]},
        },
        "required": [say()],
    }
    function = {"name": say(), "description": say(), "parameters": parameters}
    # a name that a call has, too, for templates that look tools up
    other = {"name": "search", "description": say(), "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": one} for one in (other, function)]
    return [SystemMessage(say()), HumanMessage(say())], tools, None


def _calls(say: Say, halves: Say) -> Conversation:
    arguments = {"text": say(), say(): {"deep": [say(), 1, None]}}
    name, identifier = say(), say()
    call = {"name": name, "args": arguments, "id": identifier, "type": "tool_call"}
    messages: list[BaseMessage] = [
        HumanMessage(say()),
        AIMessage(say(), tool_calls=[call]),
        ToolMessage(say(), tool_call_id=identifier, name=name),
        AIMessage(halves()),
        HumanMessage(halves()),
    ]
    function = {"name": name, "description": say(), "parameters": {"type": "object", "properties": {}}}
    return messages, [{"type": "function", "function": function}], None


KINDS = {made.__name__[1:]: made for made in (_plain, _adjacent, _prefill, _thoughts, _variables, _tools, _calls)}
# what a template rewrites has another harmless form
OTHERWISE = {"prefill": _rewritten_prefill}


def _short(identifier: str) -> str:
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _controls(shown: str) -> list[str]:
    return re.findall("\ue000\\d+\ue001", shown)


@dataclass
class Judge:
    """Tells whether a prompt is that of the harmless conversation, with what was said in place of its words."""

    tokenizer: Any
    controls: frozenset[int]

    def __post_init__(self) -> None:
        config = json.loads(self.tokenizer.backend_tokenizer.to_str())
        text = json.dumps(config["normalizer"])
        self._form = next((form for form in ("NFKC", "NFC", "NFKD", "NFD") if f'"{form}"' in text), None)
        # SentencePiece puts blanks where there were none, and decodes without the first
        self._blanks = "ByteLevel" in json.dumps([config["pre_tokenizer"], config["decoder"]])

    def shown(self, ids: Any) -> str:
        """Ids as text, with control tokens as characters that no text has."""
        made = []
        for is_control, group in itertools.groupby(ids, self.controls.__contains__):
            found = list(group)
            if is_control:
                made += [f"\ue000{one}\ue001" for one in found]
            else:
                made.append(self._text(self.tokenizer.backend_tokenizer.decode(found, skip_special_tokens=False)))
        return "".join(made)

    def _text(self, text: str) -> str:
        text = unicodedata.normalize(self._form, text) if self._form else text
        return text if self._blanks else "".join(text.replace("▁", " ").split())

    def pattern(self, harmless: str, said: list[str]) -> re.Pattern[str]:
        """What a prompt has to look like."""
        for number in range(len(said)):
            # Mistral's templates want short ids
            harmless = harmless.replace(_short(WORD.format(number)), WORD.format(number))
        made, end = [], 0
        for found in _QUOTED.finditer(harmless):
            text = said[int(found[2])]
            options = [f"{found[1]}{form}{found[3]}" for form in self._written(text)]
            if found[1] and found[3]:
                options.append(self._text(repr(replace_surrogates(text))))
            made += [re.escape(harmless[end : found.start()]), f"(?:{'|'.join(map(re.escape, options))})"]
            end = found.end()
        return re.compile("".join([*made, re.escape(harmless[end:])]))

    def _written(self, text: str) -> list[str]:
        """How templates write a text: as it is, without blanks around it, as JSON or Python has it, or HTML."""
        text = replace_surrogates(text)
        forms = []
        for one in (text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n")):
            for ascii_only in (False, True):
                quoted = json.dumps(one, ensure_ascii=ascii_only)[1:-1]
                forms += [quoted, json.dumps(quoted, ensure_ascii=ascii_only)[1:-1]]
            forms += [one, _short(one), repr(one)[1:-1], html.escape(one, quote=False)]
        return sorted({self._text(form) for form in forms}, key=len, reverse=True)


def control_ids(tokenizer: Any, template: str, harmless: list[str]) -> frozenset[int]:
    """The tokens that no text may become: all added ones, but blanks, single characters, and HTML nobody writes."""
    declared = safe_encoder(tokenizer, template).markup
    written = {one for one in declared if one in template or any(one in text for text in harmless)}
    unknown = tokenizer.unk_token_id
    return frozenset(
        i
        for i, token in tokenizer.added_tokens_decoder.items()
        if i != unknown
        and (token.special or (token.content.strip(" \t\r\n▁") and len(token.content) > 1))
        and (token.content not in declared or token.content in written)
    )


class Attack:
    """Conversations with hostile texts for one tokenizer and one chat template."""

    def __init__(self, tokenizer: Any, template: str, seed: int, hermes: bool = False) -> None:
        """Renders the harmless conversations of all kinds that the template takes."""
        self._random = random.Random(seed)
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        added = [one for one in added if len(one) > 1]
        few = added if len(added) < 60 else [one for one in added if one in template] + self._random.sample(added, 40)
        self.texts = HostileTexts(sorted({*few, *markers_of(template)}), seed)
        self._renderer = PromptRenderer(
            tokenizer,
            reward_template=RewardTemplate.for_tokenizer(tokenizer),
            chat_template=template,
            tool_format=get_tool_format("hermes") if hermes else None,
        )
        prompts: dict[str, list[tuple[Any, Any]]] = {}
        for name, kind in KINDS.items():
            for made in (kind, OTHERWISE[name]) if name in OTHERWISE else (kind,):
                numbers = itertools.count()
                try:
                    ids = self._ids(made, lambda numbers=numbers: WORD.format(next(numbers)))
                except PromptError:
                    continue
                prompts.setdefault(name, []).append(ids)
        if "prefill" in prompts:
            prompts["prefill"].append(self._headed_prefill())
        decoded = [tokenizer.decode(ids) for pairs in prompts.values() for pair in pairs for ids in pair]
        self.judge = Judge(tokenizer, control_ids(tokenizer, template, decoded))
        # by kind: the harmless prompts of the policy, and those of the reward model
        self.kinds: dict[str, list[list[str]]] = {
            name: [list(map(self.judge.shown, side)) for side in zip(*pairs, strict=True)]
            for name, pairs in prompts.items()
        }

    def _ids(self, kind: Kind, say: Say, halves: Say | None = None) -> tuple[Any, Any]:
        messages, tools, variables = kind(say, halves or say)
        prompt = self._renderer.render(messages, tools, variables=variables)
        return prompt.policy_ids, prompt.reward_ids

    def _headed_prefill(self) -> tuple[Any, Any]:
        """The harmless prefill behind the answer's header: so goes one that a token would span, or that is edited."""
        numbers = itertools.count()
        chat = self._renderer._chat
        with (
            mock.patch.object(chat, "render_continued", return_value=None),
            mock.patch.object(chat, "render_continued_elsewhere", return_value=None),
        ):
            return self._ids(_prefill, lambda: WORD.format(next(numbers)))

    def attempt(self, name: str) -> Iterator[tuple[str, str]]:
        """One conversation: by hostile text in it, what came of it and, unless that is well, the text."""
        said: list[str] = []
        halves: list[str] = []

        def say() -> str:
            said.append(self.texts.text())
            return said[-1]

        def half() -> str:
            if not halves:
                halves.extend(reversed(self.texts.halves()))
            said.append(halves.pop())
            return said[-1]

        try:
            prompts = self._ids(KINDS[name], say, half)
        except PromptError as error:
            yield from (("refused", f"{error}: {text!r}") for text in said)
            return
        verdict, seen = "kept", ""
        for ids, harmless in zip(prompts, self.kinds[name], strict=True):
            shown = self.judge.shown(ids)
            alike = [one for one in harmless if _controls(one) == _controls(shown)]
            if not alike:
                verdict, seen = "escaped", shown
            elif verdict == "kept" and not any(self.judge.pattern(one, said).fullmatch(shown) for one in alike):
                verdict, seen = "otherwise", shown
        yield from ((verdict, f"{name}: {said!r}\n{seen}" if seen else "") for _ in said)


def run(attacks: Iterator[tuple[str, Attack]], attempts: int, each: int) -> dict[str, Any]:
    """Attempts on every attack in turn, until there were enough.

    Args:
        attacks: With names.
        attempts: At least so many texts in all.
        each: Conversations for every kind of every attack.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, dict[str, str]] = {}
    kinds: Counter[str] = Counter()
    pairs = 0
    for place, attack in attacks:
        pairs += 1
        if pairs % 50 == 0:
            print(f"{place}: {dict(counts)}", file=sys.stderr, flush=True)
        for name in attack.kinds:
            for _ in range(each):
                for verdict, text in attack.attempt(name):
                    counts[verdict] += 1
                    kinds[name] += 1
                    if text:
                        examples.setdefault(verdict, {}).setdefault(f"{place}, {name}", text)
        if sum(counts.values()) >= attempts:
            break
    return {
        "attempts": sum(counts.values()),
        "escapes": counts["escaped"],
        **{verdict: counts[verdict] for verdict in ("kept", "otherwise", "refused")},
        "tokenizers × templates": pairs,
        "by kind": dict(kinds),
        "examples": examples,
    }


def folders(tokenizers: Path, templates: Path, share: tuple[int, int]) -> Iterator[tuple[str, Attack]]:
    """Every tokenizer with its own template and all others, and two of them that know all markers."""
    from transformers import AutoTokenizer

    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(templates.rglob("*.jinja"))}
    markers = sorted({one for text in texts.values() for one in markers_of(text) if not one.isspace()})
    seeds = itertools.count()
    for folder in sorted(tokenizers.iterdir()):
        for rich in (False, True) if folder.name in ("qwen3", "llama2") else (False,):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if rich:
                tokenizer.add_tokens([AddedToken(one, normalized=False, special=True) for one in markers])
            own = {"its own": tokenizer.chat_template} if tokenizer.chat_template else {}
            for name, template in {**own, **texts}.items():
                seed = next(seeds)
                if seed % share[1] != share[0]:
                    continue
                try:
                    attack = Attack(tokenizer, template, seed, hermes=seed % 5 == 0)
                except PromptError as error:
                    print(f"{folder.name} × {name}: {error}", file=sys.stderr)
                    continue
                yield f"{folder.name}{' with all markers' * rich} × {name}", attack


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--attempts", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=4, help="conversations of a kind, for each pair")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="which part of how many")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    found = run(
        folders(arguments.tokenizers, arguments.templates, tuple(arguments.share)), arguments.attempts, arguments.each
    )
    json.dump({**found, "seconds": round(time.perf_counter() - began)}, sys.stdout, indent=1, ensure_ascii=False)
    print()
