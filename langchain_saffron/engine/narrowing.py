"""What is given up where the KV cache has no room for all that a search wants scored."""

from langchain_saffron.engine.request import Request
from langchain_saffron.errors import CacheFullError


def narrow(request: Request) -> None:
    """Give a request the slots that are left, and have only as many of its nodes scored as they are enough for.

    First goes what only saves work later, then the worst nodes, one after the other, down to `Expand.least`.

    Raises:
        CacheFullError: There is no room for so few either, or the search cannot do with fewer.
    """
    asked = request.expand
    assert asked is not None
    most = max(len(asked.nodes), len(asked.prm_nodes))
    least = most if asked.least is None else min(asked.least, most)
    for count in range(most, least - 1, -1):
        request.ask(asked.first(count))
        try:
            for name, cache in request.caches.items():
                cache.squeeze(request.asked(name))
        except CacheFullError:
            if count == least:
                # whoever tries again later asks for all of it
                request.ask(asked)
                raise
        else:
            return
