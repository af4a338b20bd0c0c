"""What a process reward model thinks of a tool call in its conversation."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Self

from langchain_core.messages import AIMessage, BaseMessage, ToolCall

from langchain_saffron.errors import ContextOverflowError, PromptError, SaffronError
from langchain_saffron.interface.messages import Turn, to_turns
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.safe_encoder import replace_surrogates, safe_encoder
from langchain_saffron.templates.tool_call_text import CALL_END, CALL_START, call_json, marked, turn_text

# characters after which a sentence counts as ended
LONGEST = 200
_SENTENCE_ENDS = ".!?。！？"
_CLOSING = {"{": "}", "[": "]"}
# a bracket, or a string and whether it is a key
_PIECE = re.compile(r'([{}\[\]])|("(?:\\.|[^"\\])*")(\s*:)?')
_WORD = re.compile(r"(?:\\.|\S){1,80}")


class ToolCallBlockedError(SaffronError, RuntimeError):
    """A tool call that a guard did not let run.

    Attributes:
        tool_call: The call.
        score: Its reward; `None` if it could not be scored.
        threshold: What it would have needed.
    """

    def __init__(self, tool_call: ToolCall, score: float | None, threshold: float) -> None:
        why = "could not be scored" if score is None else f"has a reward of {score:.2f}, below {threshold:.2f}"
        super().__init__(f"the call of {tool_call['name']} was blocked: it {why}")
        self.tool_call = tool_call
        self.score = score
        self.threshold = threshold

    def __reduce__(self) -> tuple[type[Self], tuple[ToolCall, float | None, float]]:
        # as an exception it would be made again from its text alone
        return type(self), (self.tool_call, self.score, self.threshold)


def endings(call: str) -> list[str]:
    """A call as if it had ended after each of its sentences (or, where these are long, in them), and as it is.

    Args:
        call: Its JSON, in the Hermes form.
    """
    shortened, open_brackets = [], ""
    for piece in _PIECE.finditer(call):
        bracket, string, is_key = piece.groups()
        if bracket in ("{", "["):
            open_brackets = _CLOSING[bracket] + open_brackets
        elif bracket:
            open_brackets = open_brackets[1:]
        elif len(open_brackets) > 1 and not is_key:
            last = start = piece.start(2) + 1
            for word in _WORD.finditer(string[1:-1]):
                at = start + word.end()
                if word[0][-1] in _SENTENCE_ENDS or at - last >= LONGEST:
                    shortened.append(f'{call[:at]}"{open_brackets}')
                    last = at
            shortened.append(call[: piece.end(2)] + open_brackets)
    return [*dict.fromkeys(one for one in shortened if one != call), call]


class CallScorer:
    """Scores tool calls as a process reward model reads conversations.

    Attributes:
        prm: The reward model.
    """

    def __init__(self, prm: ProcessRewardModel) -> None:
        self.prm = prm
        self._encoder = safe_encoder(prm.tokenizer)

    def score(
        self,
        call: ToolCall,
        messages: Sequence[BaseMessage],
        threshold: float = -math.inf,
        checks: Callable[[str], bool] = lambda name: True,
    ) -> float:
        """The reward of the assistant's message up to and including a call.

        It is the lowest one of the call and of what the call would be if it ended after one of its sentences, since
        reward models forget: a hazard in front of much harmless text must count in full.

        A conversation that is too long for the reward model loses its oldest turns, down to the user's last message.
        And the call is scored behind that message alone as well; the lower reward counts: small reward models overlook
        a hazard at the end of a conversation longer than any they were trained on.

        Args:
            call: As it would run.
            messages: The conversation, with the message that makes the call. What comes after that does not count.
            threshold: Earlier calls of the same message with a lower reward are taken not to run, and left out of it.
            checks: Whether the calls of a tool can be left out, given its name.

        Raises:
            ContextOverflowError: The call and the user's last message do not fit into the reward model's context.
            NumericalError: The reward model returned NaN.
            PromptError: The reward model cannot be given this conversation.
        """
        place = _place_of_caller(call, messages)
        turns = to_turns(messages[:place]) if place else []
        text, running = "", list[ToolCall]()
        if place < len(messages):
            caller = messages[place]
            assert isinstance(caller, AIMessage)
            text = to_turns([caller])[0].text
            for one in _calls_before(call, caller):
                if not checks(one["name"]) or self._reward(turns, text, running, one) >= threshold:
                    running.append(one)
        return self._reward(turns, text, running, call)

    def _reward(self, turns: list[Turn], text: str, before: list[ToolCall], call: ToolCall) -> float:
        answers = self._answers_ids(text, before, call)
        asked = [turn for turn in turns if turn.role == "user"][-1:]
        # the call itself is the longest
        prompts = [self._prompt_ids(some, answers[-1]) for some in ([turns] if turns == asked else [turns, asked])]
        pairs = [(prompt, answer) for prompt in prompts for answer in answers]
        if self.prm.decoder is not None:
            # to a model, prompt and answer are one row of tokens: without this it would score every prefix
            pairs = [([*prompt, *answer[:-1]], answer[-1:]) for prompt, answer in pairs]
        return min(float(rewards[-1]) for rewards in self.prm.score(pairs))

    def _answers_ids(self, text: str, before: list[ToolCall], call: ToolCall) -> list[list[int]]:
        """The message as the model writes it, with its calls' markers as control tokens where there are such.

        It is written once for every ending of the call.
        """
        start, end = self._encoder.name_controls(CALL_START), self._encoder.name_controls(CALL_END)
        *others, last = (replace_surrogates(call_json(one["name"], one["args"])) for one in (*before, call))
        written = [[marked(one, start, end) for one in (*others, ending)] for ending in endings(last)]
        return [self._encoder.encode(turn_text(text, calls)) for calls in written]

    def _prompt_ids(self, turns: list[Turn], answer: list[int]) -> list[int]:
        """As much of the conversation as fits."""
        asked = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
        rest = [place for place in range(len(turns)) if place != asked]

        def ids(dropped: int) -> list[int]:
            gone = set(rest[:dropped])
            kept = (turn for place, turn in enumerate(turns) if place not in gone)
            return self.prm.prompt_ids([pair for turn in kept for pair in turn.as_reward_turns()])

        def fits(dropped: int) -> bool:
            try:
                self.prm.check_length(ids(dropped), answer)
            except ContextOverflowError:
                return False
            except PromptError:
                # some templates want the user's turn first
                if not dropped:
                    raise
                return False
            return True

        if not rest or fits(0):
            return ids(0)
        # at the end of the range, scoring says that it is too long
        return ids(bisect_left(range(len(rest)), True, lo=1, key=fits))


def _place_of_caller(call: ToolCall, messages: Sequence[BaseMessage]) -> int:
    """Where the message stands that makes a call; past the end if there is none."""
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if isinstance(message, AIMessage) and any(one["id"] == call["id"] for one in message.tool_calls):
            return place
    return len(messages)


def _calls_before(call: ToolCall, caller: AIMessage) -> list[ToolCall]:
    ids = [one["id"] for one in caller.tool_calls]
    return caller.tool_calls[: len(ids) - 1 - ids[::-1].index(call["id"])]
