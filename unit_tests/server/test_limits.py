"""Keys, tenants, rates, sizes and places."""

import asyncio
import json
import logging
import signal

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from langchain_saffron import ChatSaffron
from langchain_saffron.errors import SettingsError
from langchain_saffron.server import ServerSettings, create_app
from langchain_saffron.server.errors import ApiError
from langchain_saffron.server.load import Load
from langchain_saffron.server.rate_limit import RateLimit
from langchain_saffron.server.streaming import EventStream, wait_for
from langchain_saffron.server.tenants import KeyRing

CHAT = "/v1/chat/completions"
SOUP = {"messages": [{"role": "user", "content": "How do I make a leek soup with thyme?"}], "max_tokens": 2}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def cached(client, key: str, **more) -> int:
    answer = client.post(CHAT, json={**SOUP, **more}, headers=bearer(key)).json()
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_only_known_keys_are_let_in(client_of):
    client = client_of(api_keys=("sk-one", "team:sk-two"))
    for headers in ({}, bearer("sk-on"), bearer("team:sk-two"), {"Authorization": "sk-one"}, bearer("")):
        response = client.post(CHAT, json=SOUP, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/models", headers=headers).status_code == 401
    for key in ("sk-one", "sk-two"):
        assert client.get("/v1/models", headers=bearer(key)).status_code == 200
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200
    assert 'reason="invalid_key"} 10.0' in client.get("/metrics").text


def test_below_another_path_keys_are_needed_as_well(client_of):
    outer = FastAPI()
    outer.mount("/models/kitchen", client_of(api_keys=("sk-one",)).app)
    client = TestClient(outer)
    url = "/models/kitchen/v1/chat/completions"
    assert client.post(url, json=SOUP).status_code == 401
    assert client.post(url, json=SOUP, headers=bearer("sk-one")).status_code == 200
    assert client.get("/models/kitchen/health").status_code == 200


def test_tenants_share_no_prompts(client_of):
    client = client_of(api_keys=("sk-a", "team:sk-b", "team:sk-c"))
    assert cached(client, "sk-a") == 0
    assert cached(client, "sk-a") > 0
    assert cached(client, "sk-b") == 0
    # another key of the same tenant
    assert cached(client, "sk-c") > 0
    # under a salt of its own
    assert cached(client, "sk-a", cache_salt="x") == 0
    assert cached(client, "sk-a", cache_salt="x") > 0
    assert cached(client, "sk-b", cache_salt="x") == 0


def test_without_keys_each_key_is_a_tenant(client_of):
    client = client_of()
    assert cached(client, "sk-any") == 0
    assert cached(client, "sk-any") > 0
    assert cached(client, "sk-other") == 0


def test_keys_are_compared_whole_and_told_nowhere(client_of, caplog, monkeypatch):
    compared = []
    from langchain_saffron.server import tenants

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    monkeypatch.setattr(tenants.hmac, "compare_digest", compare)
    keys = KeyRing(["sk-secret-one", "sk-secret-two"])
    assert "secret" not in keys.tenant("Bearer sk-secret-one") + repr(vars(keys))
    # all of them, and digests, whose length tells nothing
    assert compared == [(32, 32)] * 2
    monkeypatch.undo()
    with caplog.at_level(logging.DEBUG):
        client_of(api_keys=("sk-secret-one",)).post(CHAT, json=SOUP, headers=bearer("sk-secret-one"))
        client_of(api_keys=("sk-secret-one",)).post(CHAT, json=SOUP, headers=bearer("sk-secret-two"))
    assert "tokens in" in caplog.text
    assert "secret" not in caplog.text + repr(ServerSettings(api_keys=("sk-secret-one",)))
    with pytest.raises(SettingsError, match="empty"):
        KeyRing([" "])


def test_prompts_are_logged_only_where_asked(client_of, caplog):
    with caplog.at_level(logging.DEBUG):
        client_of().post(CHAT, json=SOUP)
        client_of().post(CHAT, json={**SOUP, "stream": True})
        assert "leek" not in caplog.text
        client_of(log_prompts=True).post(CHAT, json={**SOUP, "stream": True})
    assert "leek" in caplog.text


def test_a_rate_for_each_key(client_of):
    client = client_of(api_keys=("sk-a", "sk-b"), rate_limit=2)
    statuses = [client.post(CHAT, json={}, headers=bearer(key)).status_code for key in ("sk-a",) * 3 + ("sk-b",)]
    assert statuses == [400, 400, 429, 400]
    response = client.post(CHAT, json={}, headers=bearer("sk-a"))
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < int(response.headers["Retry-After"]) <= 30
    # looking costs nothing
    assert client.get("/v1/models", headers=bearer("sk-a")).status_code == 200


def test_a_bucket_fills_again():
    now = 0.0
    rate = RateLimit(2, clock=lambda: now)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 30]
    now = 30.0
    assert [rate.take("a"), rate.take("a")] == [0, 30]
    now = 10_000.0
    assert [rate.take("a") for _ in range(3)] == [0, 0, 30]
    assert RateLimit(None).take("a") == 0


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_body_that_is_too_large(client_of, pieces):
    client = client_of(max_body=1000)
    content = b"x" * 1001 if pieces == 1 else iter([b"x" * 400] * pieces)
    response = client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_places_are_bounded_and_given_back():
    load = Load(1)
    with load.place():
        with pytest.raises(ApiError, match="too many") as caught, load.place():
            pass
        assert caught.value.status_code == 503
    with load.place():
        assert load.requests == 1
    load.draining = True
    with pytest.raises(ApiError, match="shutting down"), load.place():
        pass
    assert load.rejections == {"queue_full": 1, "draining": 1}


def test_while_the_server_drains_nothing_is_taken(client):
    client.app.state.load.draining = True
    response = client.post(CHAT, json=SOUP)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert client.get("/health").status_code == 503


def test_no_signal_handlers_are_installed():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    create_app(ChatSaffron(model="kitchen"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"max_queue": -1}, {"max_body": 0}, {"rate_limit": 0}])
def test_settings_that_cannot_work(wrong):
    with pytest.raises(SettingsError, match=f"{next(iter(wrong))}: at least"):
        ServerSettings(**wrong)


class Client:
    """One that listens, and may leave."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


async def test_a_stream_that_says_nothing_is_kept_open():
    client, go_on = Client(), asyncio.Event()

    async def events():
        await go_on.wait()
        yield {"a": 1}

    task = asyncio.create_task(EventStream(events(), Load(1), 0.02)({}, client.receive, client.send))
    while client.text.count(": ping\n\n") < 2:
        await asyncio.sleep(0.01)
    go_on.set()
    await task
    assert client.text.endswith('data: {"a":1}\n\ndata: [DONE]\n\n')
    assert client.sent[-1]["more_body"] is False


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_stops_the_answer(stream):
    client, stopped = Client(), asyncio.Event()

    async def answer():
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def events():
        await answer()
        yield {}

    sending = (
        EventStream(events(), Load(1), 60)({}, client.receive, client.send)
        if stream
        else wait_for(answer(), client.receive, Load(1))
    )
    task = asyncio.create_task(sending)
    await asyncio.sleep(0)
    client.left.set()
    assert await asyncio.wait_for(task, 5) is None
    assert stopped.is_set()
    assert not client.sent


async def test_a_search_stops_within_a_step_of_when_its_client_left():
    chat = ChatSaffron(model="kitchen", effort="low")
    engine, client = chat.load(), Client()
    asked = {**SOUP, "stream": True, "min_tokens": 1000, "max_tokens": 1000}
    body = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]

    async def receive() -> dict:
        return body.pop() if body else await client.receive()

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "query_string": b"", "root_path": ""}
    task = asyncio.create_task(create_app(chat)(scope, receive, client.send))
    while len(client.sent) < 5:
        await asyncio.sleep(0)
    client.left.set()
    steps = engine.scheduler.forwards["policy"]
    await task
    while engine.metrics().num_requests_running:
        await asyncio.sleep(0)
    # one may have begun before the event loop's turn, and one runs
    assert engine.scheduler.forwards["policy"] - steps <= 2
    assert "[DONE]" not in client.text


async def test_what_has_to_end_says_so():
    client, load = Client(), Load(1)

    async def events():
        yield {"a": 1}
        await asyncio.sleep(60)

    task = asyncio.create_task(EventStream(events(), load, 60)({}, client.receive, client.send))
    while not client.text:
        await asyncio.sleep(0)
    load.expired.set()
    await asyncio.wait_for(task, 5)
    assert '"code":"shutting_down"' in client.text
    assert client.text.endswith("[DONE]\n\n")
    with pytest.raises(ApiError, match="shutting down"):
        await wait_for(asyncio.sleep(60), client.receive, load)
