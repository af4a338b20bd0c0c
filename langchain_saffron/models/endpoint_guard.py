"""A guard behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, Ollama, a hosted service)."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from langchain_saffron.errors import SettingsError

# tokens of a verdict that are looked through: some guards write "Safety:" or an empty line first
_TOKENS = 8
_ALTERNATIVES = 20
# what no further attempt mends
_REFUSED = {400, 401, 403, 404, 405, 422}


class EndpointGuard:
    """A `conversation_guard` that asks a chat completion for its verdict: `log p(safe) - log p(unsafe)`.

    The endpoint applies the guard's own chat template to the conversation. The verdict is read at the first token that
    begins one of the two words; one that is not among the 20 likeliest there counts as unlikely as the last of these.

    Attributes:
        name: What errors and records call it.
    """

    scores_conversations = True

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        safe: str = "safe",
        unsafe: str = "unsafe",
        api_key: str | None = None,
        timeout: float = 60.0,
        parallel: int = 8,
    ) -> None:
        """Name an endpoint; nothing is sent yet.

        Args:
            url: Up to `/v1`, such as `http://localhost:8000/v1`.
            model: The model to ask for; `None` takes the endpoint's only one.
            safe: The word that means safe.
            unsafe: The word that means unsafe.
            api_key: Sent as a bearer token; `None` takes `OPENAI_API_KEY` of the environment, if it is set.
            timeout: Seconds that a request may take.
            parallel: Requests at a time.
        """
        self._url = url.rstrip("/")
        self._given = model
        self._words = (safe.strip(), unsafe.strip())
        key = api_key or os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="saffron-guard")
        self.name = f"{model or 'the guard'} at {self._url}"

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its scores depend on, for `models.fingerprint`."""
        return self._url, self._given, self._words

    def __call__(self, conversations: list[list[dict[str, str]]]) -> list[float]:
        """A reward for each conversation; NaN where the endpoint failed, unless it failed for all of them.

        Raises:
            SettingsError: It refuses such requests, or tells no probabilities.
        """
        model = self._model()
        futures = [self._pool.submit(self._reward, model, one) for one in conversations]
        rewards: list[float] = []
        failure: Exception | None = None
        for future in futures:
            try:
                rewards.append(future.result())
            except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError) as error:
                if isinstance(error, SettingsError):
                    raise
                failure = error
                rewards.append(math.nan)
        if failure is not None and all(math.isnan(reward) for reward in rewards):
            raise failure
        return rewards

    def _model(self) -> str:
        if self._given is None:
            served = self._read(self._client.get(f"{self._url}/models"))["data"]
            if len(served) != 1:
                names = ", ".join(str(one["id"]) for one in served[:10])
                raise SettingsError(f"guard_model: {self._url} serves {len(served)} models, name one of them: {names}")
            self._given = str(served[0]["id"])
        return self._given

    def _reward(self, model: str, messages: list[dict[str, str]]) -> float:
        response = self._client.post(
            f"{self._url}/chat/completions",
            json={
                "model": model,
                "messages": messages,
                "max_tokens": _TOKENS,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": _ALTERNATIVES,
            },
        )
        told = self._read(response)["choices"][0].get("logprobs") or {}
        if not told.get("content"):
            raise SettingsError(
                f"guard: {self._url} tells no probabilities of tokens (logprobs), without which there is no reward: "
                "serve the guard by something that does, such as vLLM, or pass a Python function that asks it"
            )
        return verdict_reward(told["content"], *self._words)

    def _read(self, response: httpx.Response) -> Any:
        if response.status_code in _REFUSED:
            raise SettingsError(f"guard: {self._url} refused ({response.status_code}): {response.text[:300]}")
        response.raise_for_status()
        return response.json()


def verdict_reward(tokens: Sequence[dict[str, Any]], safe: str, unsafe: str) -> float:
    """The reward that the first verdict in an answer stands for.

    Args:
        tokens: The answer's tokens as chat completions tell them: `token` and `top_logprobs`.
        safe: The word that means safe.
        unsafe: The word that means unsafe.

    Returns:
        `log p(safe) - log p(unsafe)`; NaN where no token begins either word.
    """
    for token in tokens:
        if not _begins(token["token"], safe, unsafe) and not _begins(token["token"], unsafe, safe):
            continue
        others = [(one["token"], float(one["logprob"])) for one in token["top_logprobs"]]
        others.append((token["token"], float(token["logprob"])))
        least = min(chance for _, chance in others)
        likely = [
            max((chance for text, chance in others if _begins(text, word, other)), default=least)
            for word, other in ((safe, unsafe), (unsafe, safe))
        ]
        return likely[0] - likely[1]
    return math.nan


def _begins(text: str, word: str, other: str) -> bool:
    """Whether a token can only be the beginning of this word."""
    said = text.strip()
    return bool(said) and word.startswith(said) and not other.startswith(said)
