"""Who may start next: requests that hold no slots of any cache."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from langchain_saffron.engine.narrowing import hurries
from langchain_saffron.engine.request import Request
from langchain_saffron.models.decoder import TrieDecoder

# how many may begin before one that came earlier and does not fit yet
PATIENCE = 32
# steps' worth of slots that have to be free besides the prompt: beams share most of what they hold, so that what a
# search will hold is not known; where slots run out in the middle, somebody pauses
FIRST_STEPS = 16


class WaitingLine:
    """New and paused requests, in order of arrival.

    What does not fit beside the running ones is overtaken by what does, but not for ever.
    """

    def __init__(self, decoders: Mapping[str, TrieDecoder]) -> None:
        """Take the models, by name."""
        self._decoders = decoders
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests))

    def add(self, request: Request) -> None:
        """Let it wait, at the place that its arrival gives it."""
        self._requests.append(request)
        self._requests.sort(key=lambda request: request.arrival)

    def remove(self, request: Request) -> None:
        """It waits no longer, if it did."""
        if request in self._requests:
            self._requests.remove(request)

    def clear(self) -> None:
        """Forget everybody."""
        self._requests.clear()

    def take(self, running: Collection[Request]) -> tuple[Request, int] | None:
        """The first that fits beside the running ones, which waits no longer, and how wide it fits.

        Where nothing runs, the first in the line is taken whether it fits or not; `None` where nobody does.
        """
        if not running:
            return (first := self._requests.pop(0), first.inputs.settings.width) if self._requests else None
        # the running ones' next step comes first
        free = {
            name: decoder.forest.available - sum(len(r.caches[name].frontier) for r in running if name in r.caches)
            for name, decoder in self._decoders.items()
        }
        passed: list[Request] = []
        for request in self._requests:
            if (width := self._width(request, free)) is not None:
                self._requests.remove(request)
                for other in passed:
                    other.overtaken += 1
                return request, width
            passed.append(request)
            if request.overtaken >= PATIENCE or len(passed) >= PATIENCE:
                break
        return None

    def _width(self, request: Request, free: Mapping[str, int]) -> int | None:
        """How wide a request fits: as wide as it wants, unless it is in a hurry; `None` where it does not fit."""
        settings = request.inputs.settings
        width, least = settings.width, settings.least_width if hurries(request) else settings.width
        while not self._fits(request, free, width):
            if width == least:
                return None
            width = max(width // 2, least)
        return width

    def _fits(self, request: Request, free: Mapping[str, int], width: int) -> bool:
        whole = width == request.inputs.settings.width
        for name, prompt in request.prompts.items():
            if name not in free:
                # a function, which has no cache
                continue
            room, cache = free[name] - request.growth(FIRST_STEPS, width), request.caches.get(name)
            if cache is None and room >= len(prompt):
                # whatever of it is there already
                continue
            forest = self._decoders[name].forest
            if cache is None:
                needed = forest.missing(prompt, request.salt)
            else:
                asked = request.asked(name)
                if not whole and asked.least is not None:
                    asked = replace(asked.first(max(width, asked.least)), retain=())
                # a search of the user's own may ask for more than its settings' width
                if free[name] < cache.asked_at_once(asked):
                    return False
                needed = cache.needed(None if whole else asked)
            if room < needed:
                return False
        return True
