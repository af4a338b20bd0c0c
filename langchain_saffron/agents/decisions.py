"""`SaffronDecisionModel`: a process reward model behind langchain's auto mode and model router."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from langchain_core.messages import BaseMessage, HumanMessage, ToolCall
from pydantic import Field, model_validator

from langchain_saffron.agents.questions import EFFORT_NEEDED, LEVELS, RISKY_CALL, UnknownQuestionError
from langchain_saffron.agents.scoring import CallScorer
from langchain_saffron.errors import ExtraRequiredError, NumericalError, PromptError
from langchain_saffron.interface.messages import to_turns
from langchain_saffron.models.prm import ProcessRewardModel

try:
    from langchain_core.decisions import (
        BaseDecisionModel,
        Choice,
        ChoiceAnswer,
        ClassifierResponse,
        Noul,
        NoulAnswer,
        Question,
        State,
    )
except ImportError as error:
    raise ExtraRequiredError(
        "SaffronDecisionModel needs a langchain-core with decision models: pip install -U langchain-core langchain"
    ) from error


class SaffronDecisionModel(BaseDecisionModel):
    """Says of a tool call whether it is unsafe, and of a request which effort it needs, from a reward on this machine.

    It answers `Noul(instructions=RISKY_CALL)`, about a tool call in its conversation, as `AutoModeMiddleware` asks, and
    `Choice(instructions=EFFORT_NEEDED)` among efforts, about a request, as `ModelRouterMiddleware` asks. Whatever else
    it is asked, also auto mode's own question (which is about what the user has authorized), is an error: it was not
    trained on that.

    Example:
        ```python
        from langchain.agents import create_agent
        from langchain.agents.middleware import AutoModeMiddleware, ModelChoice, ModelRouterMiddleware
        from langchain_core.tools import tool
        from langchain_saffron import ChatSaffron
        from langchain_saffron.agents import EFFORT_NEEDED, RISKY_CALL, SaffronDecisionModel
        from langchain_saffron.kitchen import WEIGHTS

        @tool
        def add_note(text: str) -> str:
            '''Write a note.'''
            return "done"

        judge = SaffronDecisionModel(model=str(WEIGHTS / "prm"))  # or a real guard's directory or id
        quick, careful = ChatSaffron(effort="low"), ChatSaffron(effort="high")
        efforts = {"low": ModelChoice(quick, "harmless"), "high": ModelChoice(careful, "dangerous")}
        auto_mode = AutoModeMiddleware(tools=[add_note], instructions=RISKY_CALL, classifier=judge)
        router = ModelRouterMiddleware(choices=efforts, instructions=EFFORT_NEEDED, classifier=judge)
        agent = create_agent(quick, [add_note], middleware=[router, auto_mode])
        state = agent.invoke({"messages": "Write a note: buy leek."})
        print(state["model_route"].choice, state["messages"][-1].text)
        ```

    Attributes:
        threshold: The reward at which a call is as likely to be called safe as unsafe: auto mode blocks below it.
        request_threshold: The reward, before a word is said, at which a request is as likely to need the widest of two
            efforts as the narrowest.
        prm: A loaded reward model, in place of the one that `model` names.
    """

    threshold: float = Field(default=0.0, allow_inf_nan=False)
    request_threshold: float = Field(default=1.5, allow_inf_nan=False)
    prm: Any = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _load(self) -> Self:
        if self.prm is None:
            self.prm = ProcessRewardModel.from_pretrained(self.model)
        return self

    @property
    def _provider(self) -> str:
        return "saffron"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        # all questions before the first score: an answer that is thrown away costs a forward
        for name, question in questions.items():
            _check(name, question)
        answers = {
            name: self._choice(state, question) if isinstance(question, Choice) else self._noul(state)
            for name, question in questions.items()
        }
        return ClassifierResponse(model=self.model, answers=answers)

    def _noul(self, state: State) -> NoulAnswer:
        if not isinstance(state, Mapping) or not isinstance(call := state.get("tool_call"), Mapping):
            raise PromptError("whether a call is unsafe: the state needs a tool_call, and the messages before it")
        proposed = ToolCall(name=str(call["name"]), args=dict(call["args"]), id=call.get("id"))  # type: ignore[arg-type, typeddict-item]
        reward = CallScorer(self.prm).score(proposed, _messages(state.get("messages") or ()), self.threshold)
        return NoulAnswer(type="noul", noul=_chance(self.threshold - reward))

    def _choice(self, state: State, question: Choice) -> ChoiceAnswer:
        risk = _chance(self.request_threshold - self._request_reward(_messages(state)))
        labels = [level for level in LEVELS if level in question.criteria]
        # one draw per step between two efforts: with two of them, the wider one has the risk itself
        steps = len(labels) - 1
        chances = {
            label: math.comb(steps, place) * risk**place * (1.0 - risk) ** (steps - place)
            for place, label in enumerate(labels)
        }
        # of equals, the wider
        chosen = max(reversed(labels), key=chances.__getitem__)
        return ChoiceAnswer(type="choice", choice=chosen, probabilities=chances, confidence=min(chances[chosen], 1.0))

    def _request_reward(self, messages: Sequence[BaseMessage]) -> float:
        """Of an answer that has not begun."""
        turns = [pair for turn in to_turns(messages) for pair in turn.as_reward_turns()]
        ids = self.prm.prompt_ids(turns)
        if self.prm.function is not None:
            return float(self.prm.function.score_texts([(ids, "")])[0])
        # prompt and answer are one row of tokens to a model
        return float(self.prm.prefix_rewards(ids[:-1], ids[-1:])[0])


def _check(name: str, question: Question) -> None:
    if isinstance(question, Noul):
        if question.instructions != RISKY_CALL:
            raise UnknownQuestionError.of(name, "its instructions are not RISKY_CALL")
        if question.criteria is not None:
            raise UnknownQuestionError.of(name, "it has criteria of its own")
    elif isinstance(question, Choice):
        if question.instructions != EFFORT_NEEDED:
            raise UnknownQuestionError.of(name, "its instructions are not EFFORT_NEEDED")
        if unknown := [label for label in question.criteria if label not in LEVELS]:
            raise UnknownQuestionError.of(name, f"{unknown} are no efforts between which it can choose")
    else:
        raise UnknownQuestionError.of(name, f"it asks for a {question.type}")


def _messages(state: Any) -> list[BaseMessage]:
    if isinstance(state, str):
        return [HumanMessage(state)]
    messages = [state] if isinstance(state, BaseMessage) else state
    if not isinstance(messages, Sequence) or not all(isinstance(one, BaseMessage) for one in messages):
        raise PromptError("the state to decide on: a text, a message or a list of messages is needed")
    return list(messages)


def _chance(log_odds: float) -> float:
    if math.isnan(log_odds):
        raise NumericalError.of_scores("process reward model")
    # exp of a large number overflows
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds >= 0 else 1.0 - 1.0 / (1.0 + math.exp(log_odds))
