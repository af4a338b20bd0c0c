"""A function as process reward model, as the scheduler asks it: of texts, and of no cache."""

from collections.abc import Callable, Sequence

from langchain_saffron.engine.request import Request
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.models.guard_function import GuardFunction
from langchain_saffron.search import Expand, Node


class FunctionCache(RequestCache):
    """A request's view of a function: its prompt, and the responses that are to be scored. It holds no slots.

    Attributes:
        nodes: The ends of these responses.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.cached = 0
        self.frontier: list[int] = []
        self.nodes: tuple[Node, ...] = ()
        self._asked = prompt

    @property
    def held(self) -> int:
        """It needs no slots."""
        return 0

    def pause(self) -> None:
        """There are no slots to give back."""

    def resume(self, expand: Expand) -> None:
        """Ask for the same again."""
        self.expand(expand)

    def expand(self, expand: Expand) -> None:
        """Make `expand.prm_nodes` what is to be scored."""
        self.nodes = expand.prm_nodes
        self.frontier = list(range(len(self.nodes)))

    def squeeze(self, expand: Expand) -> None:
        """There is always room."""
        self.expand(expand)

    def pairs(self) -> list[tuple[Sequence[int], list[int]]]:
        """(prompt_ids, response_ids) of what is to be scored."""
        return [(self._asked, _tokens(node)) for node in self.nodes]

    def wipe(self) -> None:
        """Nothing was computed here."""

    def close(self, keep: Node | None = None) -> None:
        """There are no slots to give back."""


class FunctionScorer:
    """Asks a function for what all requests want scored, at once.

    It runs on the engine's thread: while it does, no other request gets on.

    Attributes:
        decoder: `None`: it has no cache.
        suffix: Empty: it is asked no question.
    """

    decoder = None
    suffix: Sequence[int] = ()

    def __init__(self, function: GuardFunction) -> None:
        self._function = function

    def cache(self, prompt: Sequence[int], salt: str) -> FunctionCache:
        """A request's view of it.

        Raises:
            SettingsError: It scores conversations, and the prompt does not remember its own.
        """
        self._function.check_prompt(prompt)
        return FunctionCache(prompt)

    def call_cost(self, length: int) -> float:
        """TFLOP of a call, which nobody knows."""
        return 0.0

    def prompt_cost(self, length: int) -> float:
        """TFLOP of reading a prompt: it computes outside."""
        return 0.0

    def row_cost(self, length: int) -> float:
        """TFLOP of reading one more token: it computes outside."""
        return 0.0

    def score(self, requests: Sequence[Request], name: str, fail: Callable[[Request, BaseException], None]) -> None:
        """Give requests their rewards, in `Request.scored`.

        Args:
            requests: Those that wait for it. Where it fails, each is tried alone.
            name: Of the process reward model among the request's caches.
            fail: Ends a request by an error.
        """
        asked = [request.caches[name] for request in requests]
        counts = [len(cache.frontier) for cache in asked]
        try:
            pairs = [pair for cache in asked if isinstance(cache, FunctionCache) for pair in cache.pairs()]
            rewards = self._function.whole_rewards(pairs).split(counts)
        except BaseException as error:
            if len(requests) == 1:
                fail(requests[0], error)
                return
            for request in requests:
                self.score([request], name, fail)
            return
        for request, found in zip(requests, rewards, strict=True):
            request.stats.reward_calls += len(found)
            request.scored[name] = found


def _tokens(node: Node) -> list[int]:
    tokens: list[int] = []
    while node.parent is not None:
        tokens.append(node.token)
        node = node.parent
    return tokens[::-1]
