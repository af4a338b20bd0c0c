"""Requests that nobody would write, from the server's own OpenAPI document: `python -m integration_tests.fuzz_server`.

Whatever is sent, there is an answer, and an error is one in OpenAI's shape that is no 500.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode
from starlette.testclient import TestClient

from langchain_saffron import ChatSaffron
from langchain_saffron.server import ServerSettings, create_app

KEY = "sk-fuzz"
# an answer's length tells nothing more
SHORT = 3
LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens")
BODIES = {"/v1/chat/completions", "/v1/completions"}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
ODD = {
    "null": None,
    "text": "x",
    "number": 1,
    "nothing": {},
    "list": [[]],
    "surrogate": "\ud800",
    "control": "<|user|>\0",
}


class Fuzz:
    """Sends cases and looks at what comes back.

    Attributes:
        statuses: How often there was which.
    """

    def __init__(self) -> None:
        chat = ChatSaffron(model="kitchen", max_tokens=SHORT, effort="low", timeout=30)
        self._app = create_app(chat, ServerSettings(api_keys=(KEY,), max_body=200_000))
        self._client = TestClient(self._app, raise_server_exceptions=True)
        self._headers = {"Authorization": f"Bearer {KEY}"}
        self.statuses: Counter[int] = Counter()

    def run(self, cases: int, start: int = 0) -> None:
        """Send about so many cases from the document, then those made by hand."""
        schema = schemathesis.openapi.from_asgi("/openapi.json", self._app)
        # streams are read to their end, `[DONE]`
        schema.config.max_stream_events = 10_000
        operations = [result.ok() for result in schema.get_all_operations()]
        # most where there is most to get wrong; what takes nothing cannot be asked wrongly
        kinds = [(one, mode) for one in operations for mode in MODES if one.path in BODIES or mode is MODES[0]]
        weights = [10 if operation.path in BODIES else 1 for operation, _ in kinds]
        for (operation, mode), weight in zip(kinds, weights, strict=True):
            count = max(1, round(cases * weight / sum(weights)))
            self._send_all(operation, operation.as_strategy(generation_mode=mode), count, start)
        for label, request in by_hand():
            self._send(label, **request)

    def _send_all(self, operation: Any, strategy: Any, count: int, start: int) -> None:
        @seed(start)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def send(case: Any) -> None:
            if operation.path in BODIES and isinstance(case.body, dict):
                for name in LENGTHS:
                    if isinstance(length := case.body.get(name), int | float):
                        case.body[name] = min(length, SHORT)
            case.headers = {**(case.headers or {}), **self._headers}
            self._look(f"{operation.label} {case.body!r:.2000}", case.call(timeout=120))

        send()
        print(f"{operation.label}: {sum(self.statuses.values())} cases so far", file=sys.stderr)

    def _send(self, label: str, headers: dict[str, str] | None = None, **request: Any) -> None:
        self._look(label, self._client.request(headers={**self._headers, **(headers or {})}, **request))

    def _look(self, label: str, response: Any) -> None:
        self.statuses[response.status_code] += 1
        where = f"{label}: {response.status_code} {response.text[:300]}"
        assert response.status_code < 500, where
        assert "Traceback" not in response.text, where
        if response.status_code >= 400:
            assert_error(response.json(), where)
        elif "text/event-stream" in str(response.headers["content-type"]):
            events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
            assert events[-1] == "[DONE]", where
            for event in map(json.loads, events[:-1]):
                if "error" in event:
                    assert_error(event, where)


def assert_error(body: Any, where: str = "") -> None:
    """See that a body is an error as OpenAI has them."""
    assert set(body) == {"error"}, where
    assert set(body["error"]) == {"message", "type", "param", "code"}, where
    assert body["error"]["message"], where
    assert body["error"]["type"] != "server_error", where


def by_hand() -> Iterator[tuple[str, dict[str, Any]]]:
    """What no document says."""
    url = "/v1/chat/completions"
    hello = [{"role": "user", "content": "Hello!"}]
    yield "no body", {"method": "POST", "url": url}
    yield "no JSON", {"method": "POST", "url": url, "content": b"{"}
    yield "deep JSON", {"method": "POST", "url": url, "content": b"[" * 90_000}
    yield "a long number", {"method": "POST", "url": url, "content": b'{"seed": ' + b"9" * 9_000 + b"}"}
    yield "no UTF-8", {"method": "POST", "url": url, "content": b'{"messages": "\xff"}'}
    yield "oversized", {"method": "POST", "url": url, "content": b"x" * 300_000}
    yield "oversized, in pieces", {"method": "POST", "url": url, "content": iter([b"x" * 150_000] * 2)}
    yield "another type", {"method": "POST", "url": url, "content": b"a=b", "headers": {"Content-Type": "text/plain"}}
    yield "wrong key", {"method": "POST", "url": url, "json": {}, "headers": {"Authorization": "Bearer sk-wrong"}}
    yield "wrong scheme", {"method": "GET", "url": "/v1/models", "headers": {"Authorization": "Basic eA=="}}
    yield "wrong method", {"method": "PATCH", "url": url}
    yield "wrong path", {"method": "GET", "url": "/v1/%00/..%2f"}
    for name, value in {
        "model": "another",
        "stop": ["x"] * 10_000,
        "seed": 2**64,
        "temperature": 1e308,
        "refusal_threshold": 1e308,
        "top_p": 5e-324,
        "messages": [],
        "tools": [{"type": "function", "function": {"name": "a b\n", "parameters": {"type": "object", "$ref": "#"}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
        "chat_template_kwargs": {"messages": 1, "tools": 2, "add_generation_prompt": False},
    }.items():
        yield name, {"method": "POST", "url": url, "json": {"messages": hello, name: value}}
    for more in ({"effort": "off", "temperature": 1e-300}, {"effort": "off", "temperature": 1, "top_p": 1e-6}):
        yield f"{more}", {"method": "POST", "url": url, "json": {"messages": hello, "max_tokens": SHORT, **more}}
    for name, value in ODD.items():
        for place in (
            {"role": "user", "content": value},
            {"role": value, "content": "x"},
            {"role": "assistant", "tool_calls": value},
        ):
            body = json.dumps({"messages": [*hello, place], "max_tokens": SHORT}).encode()
            sent = {"content": body, "headers": {"Content-Type": "application/json"}}
            yield f"a message with {name}", {"method": "POST", "url": url, **sent}
        for field in ("response_format", "tools", "tool_choice", "chat_template_kwargs", "stop", "prompt"):
            body = json.dumps({"messages": hello, "max_tokens": SHORT, field: value}).encode()
            sent = {"content": body, "headers": {"Content-Type": "application/json"}}
            yield f"{field} is {name}", {"method": "POST", "url": url, **sent}


def main() -> None:
    """Run it, and say what there was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.monotonic()
    fuzz = Fuzz()
    fuzz.run(arguments.cases, arguments.seed)
    counted = ", ".join(f"{status}: {count}" for status, count in sorted(fuzz.statuses.items()))
    print(f"{sum(fuzz.statuses.values())} cases in {time.monotonic() - begun:.0f} s, no 500; {counted}")


if __name__ == "__main__":
    main()
