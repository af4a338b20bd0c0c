"""Runs methods on attacked samples, many at once over one engine, and logs what comes of each."""

import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_saffron.engine import SaffronEngine, SearchResult
from langchain_saffron.engine.handle import Handle
from langchain_saffron.evaluation.attack import Attacked
from langchain_saffron.evaluation.cases import Case
from langchain_saffron.evaluation.sample import Message
from langchain_saffron.interface.prompts import PromptRenderer, RenderedPrompt
from langchain_saffron.models.prefix_scoring import PrefixScorer

CONCURRENCY = 16


@dataclass(frozen=True)
class Started:
    """A case that is being answered, and its prompt as the method sees it."""

    case: Case
    attacked: Attacked
    prompt: RenderedPrompt
    handle: Handle

    @property
    def result(self) -> SearchResult:
        """Waits for it."""
        return self.handle.result()


class Runner:
    """Answers cases through one engine.

    Every case has a cache of its own (`cache_salt`), so that no method profits from what another has computed.
    """

    def __init__(self, engine: SaffronEngine, hide_prefill: bool = False) -> None:
        """Take an engine with the reward models that the methods need.

        Args:
            engine: Policy, MRM and PRM.
            hide_prefill: Whether reward models see only what comes after the prefill, as in the paper's protocol.
        """
        self._engine = engine
        self._hide_prefill = hide_prefill
        # a pilot over the same engine must not make the run itself look cheaper
        self._salt = secrets.token_hex(8)
        self._renderer = PromptRenderer.for_engine(engine)
        self._likelihood = PrefixScorer(engine.policy, ())

    def run(self, cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
        """Answer cases, some at a time, and give a row for the log of each as it is done, in order."""
        waiting = iter(cases)
        running: deque[Started] = deque()
        try:
            while True:
                while len(running) < CONCURRENCY and (case := next(waiting, None)) is not None:
                    running.append(self.start(case))
                if not running:
                    return
                yield self.finish(running.popleft())
        finally:
            for started in running:
                started.handle.cancelled.set()

    def start(self, case: Case) -> Started:
        """Begin to answer."""
        attacked = case.attack.apply(case.sample)
        messages = as_langchain(attacked.messages)
        if attacked.prefill_tokens:
            messages.append(AIMessage(self._opening(attacked)))
        prompt = self._renderer.render(messages, list(attacked.tools) or None)
        if self._hide_prefill and (hidden := len(prompt.prefill_ids)):
            reward_ids = prompt.reward_ids and prompt.reward_ids[:-hidden]
            prompt = replace(prompt, reward_ids=reward_ids, prm_ids=prompt.prm_ids and prompt.prm_ids[:-hidden])
        settings = case.method.settings.model_copy(update={"seed": case.search_seed})
        handle = self._engine.submit(
            prompt.policy_ids,
            prompt.reward_ids,
            settings,
            prm_prompt_ids=prompt.prm_ids,
            context_ids=prompt.prefill_ids,
            cache_salt=self._salt_of(case),
        )
        return Started(case, attacked, prompt, handle)

    def _salt_of(self, case: Case) -> str:
        return f"{self._salt}/{case.key}"

    def _opening(self, attacked: Attacked) -> str:
        tokenizer = self._engine.tokenizer
        ids = tokenizer.encode(attacked.target, add_special_tokens=False)[: attacked.prefill_tokens]
        return str(tokenizer.decode(ids))

    def finish(self, started: Started) -> dict[str, Any]:
        """Wait for the answer: a row for the log."""
        case, result = started.case, started.result
        sample, stats = case.sample, result.stats
        return {
            "key": case.key,
            "method": case.method.name,
            "attack": case.attack.name,
            "dataset": sample.dataset,
            "sample": sample.id,
            "kind": sample.kind,
            "seed": case.seed,
            "query": case.query or None,
            "goal": sample.request,
            "request": next(t["content"] for t in reversed(started.attacked.messages) if t["role"] == "user"),
            "prefill": started.prompt.prefill,
            "answer": result.text,
            "tokens": len(result.token_ids),
            "finish_reason": result.finish_reason,
            "reward": result.reward,
            "logprob": self._logprob(started.prompt, result.token_ids, self._salt_of(case)),
            "tflops": stats.tflops,
            "policy_calls": stats.policy_calls,
            "reward_calls": stats.reward_calls,
            "unseen_fallbacks": stats.unseen_fallbacks,
            "seconds": stats.seconds,
        }

    def _logprob(self, prompt: RenderedPrompt, tokens: Sequence[int], salt: str) -> float | None:
        """Mean log-likelihood of the answer's tokens under the policy, in nats. The prompt is in the case's cache."""
        if not tokens:
            return None
        engine = self._engine
        *before, last = prompt.policy_ids

        def score() -> float:
            (logits,) = self._likelihood.outputs([(before, [last, *tokens[:-1]])], salt)
            logprobs = logits.float().log_softmax(-1).cpu()
            return sum(float(row[token]) for row, token in zip(logprobs, tokens, strict=True)) / len(tokens)

        return engine.call(score)


def as_langchain(messages: Sequence[Message]) -> list[BaseMessage]:
    """Messages as chat templates take them, in LangChain's form."""
    converted: list[BaseMessage] = []
    call_id = ""
    for turn in messages:
        role, text = turn["role"], turn["content"]
        if role == "system":
            converted.append(SystemMessage(text))
        elif role == "user":
            converted.append(HumanMessage(text))
        elif role == "tool":
            converted.append(ToolMessage(text, tool_call_id=call_id))
        else:
            calls: list[dict[str, Any]] = []
            for call in turn.get("tool_calls", ()):
                call_id = f"call_{len(converted)}_{len(calls)}"
                function = call["function"]
                calls.append({"name": function["name"], "args": function["arguments"], "id": call_id})
            converted.append(AIMessage(text, tool_calls=calls))
    return converted
