"""What requests give out: pieces of text, the words that refuse, results and errors."""

from contextlib import suppress

from langchain_saffron.engine.metrics import EngineMetrics
from langchain_saffron.engine.request import Delta, Done, Failed, Request
from langchain_saffron.engine.result import RefusalText, SearchResult, refusal_category
from langchain_saffron.engine.text_stream import AnswerStream
from langchain_saffron.engine.thought_stream import ThoughtStream
from langchain_saffron.search import Answer


class Delivery:
    """Sends the events of requests, on the engine's thread."""

    def __init__(self, metrics: EngineMetrics) -> None:
        """Take what counts when something is said."""
        self._metrics = metrics

    def say(self, request: Request, tokens: tuple[int, ...]) -> None:
        """Give out what has become final."""
        # a piece a token, also where many become final at once: what listens expects a token's worth of text
        for token in tokens:
            if token not in request.inputs.end_tokens:
                for piece in request.stream.pieces((token,)):
                    self._emit(request, piece)

    def rest(self, request: Request, answer: Answer) -> str | None:
        """Give out the rest of an answer that has come to its end; return the words that refuse, if any do."""
        self.say(request, answer.tokens[request.committed : answer.refusal_at])
        if answer.finish_reason == "refusal":
            return self._refuse(request, answer)
        for piece in request.stream.last_pieces():
            self._emit(request, piece)
        return None

    def send(self, request: Request, event: Delta | Done | Failed) -> None:
        """Send an event, if anybody listens."""
        try:
            request.send(event)
        except BaseException:
            # nobody listens any more (a closed event loop): as good as cancelled
            request.cancelled.set()
            if not isinstance(event, Delta):
                # or somebody does, who would wait for ever: there is no later event
                with suppress(BaseException):
                    request.send(event)

    def _refuse(self, request: Request, answer: Answer) -> str:
        """Give out the words that refuse, in one piece; return them."""
        stream = request.stream
        if answer.refusal_at is not None:
            said = [t for t in answer.tokens[answer.refusal_at :] if t not in request.inputs.end_tokens]
            text = "".join([*stream.pieces(said), *stream.last_pieces()])
            self._emit(request, RefusalText(text, refusal_category(answer.budget_exhausted)))
            return text.lstrip()
        for piece in stream.last_pieces():
            self._emit(request, piece)
        text = request.inputs.settings.canned_refusal
        gap = "" if not stream.text or stream.text[-1].isspace() else " "
        self._emit(request, RefusalText(stream.add(gap + text), refusal_category(answer.budget_exhausted)))
        return text

    def _emit(self, request: Request, text: str) -> None:
        if text:
            self._metrics.say(request.times)
            self.send(request, Delta(text))


def result_of(request: Request, answer: Answer, refusal: str | None) -> SearchResult:
    """The result of a request whose answer is given out and whose stats are closed."""
    stream = request.stream
    constraint = request.inputs.constraint
    # a stop string is not part of the text: what is left may be a whole document or not
    complete = constraint.accepts(stream.text) if constraint and stream.stopped else answer.complete
    trace = None
    if (recorder := request.inputs.recorder) is not None:
        settings = request.inputs.settings
        trace = recorder.trace(answer.tokens, answer.finish_reason, answer.refusal_at, settings)
    return SearchResult(
        list(answer.tokens),
        stream.text,
        answer.reward,
        answer.finish_reason,
        request.inputs.trace,
        request.stats,
        complete,
        *_thoughts(stream),
        refusal,
        trace,
    )


def _thoughts(stream: AnswerStream) -> tuple[list[str], int | None, list[int] | None]:
    """What a result says of thoughts: `parts`, `thought_tokens` and `said_ids`."""
    if isinstance(stream, ThoughtStream):
        return stream.parts, stream.reader.thought, stream.reader.said
    return stream.parts, None, None
