"""What is given up where the KV cache has no room for all that a search wants scored."""

import time

from langchain_saffron.engine.request import Request
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.errors import CacheFullError
from langchain_saffron.search import Expand


def hurries(request: Request) -> bool:
    """Whether a request would rather be narrow than wait for room that others hold.

    Only one that runs out of time does, and only where `min_width` says how narrow it may be: else whoever floods the
    engine would turn down the safety of others. A floor alone (`width_floor`) is no leave to go down to it.
    """
    if request.deadline is None or request.inputs.settings.min_width is None:
        return False
    return 2 * time.perf_counter() > request.times.arrived + request.deadline


def narrow(request: Request, most: int | None = None) -> None:
    """Give a request the slots that are left, and have only as many of its nodes scored as they are enough for.

    First goes what only saves work later, where it is in the way, then the worst nodes, one after the other, down to
    `Expand.least`.

    Args:
        request: It.
        most: How many of its nodes may be scored; `None` for all.

    Raises:
        CacheFullError: There is no room for so few either, or the search cannot do with fewer.
    """
    asked = request.expand
    assert asked is not None
    count = whole = max(len(asked.nodes), len(asked.prm_nodes))
    least = count if asked.least is None else min(asked.least, count)
    if most is not None:
        count = max(min(count, most), least)
    while True:
        request.ask(asked.first(count))
        try:
            for name, cache in request.caches.items():
                _fit(cache, request.asked(name))
        except CacheFullError:
            if count > least:
                count -= 1
                continue
            # whoever tries again later asks for all of it
            request.ask(asked)
            raise
        if count < whole:
            _agree(request, asked)
        return


def _agree(request: Request, asked: Expand) -> None:
    """Reconcile fewer nodes with the scores of all of them that there may be from before a pause."""
    if request.waiting_for:
        # some models would say more than the others
        request.scored = {}
    else:
        # nothing has to be scored any more
        request.ask(asked)


def _fit(cache: RequestCache, asked: Expand) -> None:
    try:
        cache.resume(asked)
    except CacheFullError:
        cache.squeeze(asked)
