"""What stands before replicas: one session a conversation, the body as it came, and errors in our own words."""

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from langchain_saffron.errors import SettingsError
from langchain_saffron.server.proxy import MAX_BODY, NOT_FOR_CLIENTS, ReplicaProxy, middlewares
from langchain_saffron.server.sessions import OPENING, READ_BEFORE, SECRET, share_secret
from langchain_saffron.server.standing import MAX_WAIT, Standing, max_wait

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = {"role": "user", "content": "How do I make soup?"}
REST = [{"role": "assistant", "content": "Simmer it."}, {"role": "user", "content": "And salt?"}]


def start(status: int, kind: str) -> dict:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]}


def body(text: bytes, more: bool = False) -> dict:
    return {"type": "http.response.body", "body": text, "more_body": more}


def client_of(*messages: dict) -> TestClient:
    """Of a proxy that answers like that."""

    async def answer(scope, receive, send):
        for message in messages:
            await send(message)

    return TestClient(ReplicaProxy(answer))


@pytest.fixture
def echo() -> TestClient:
    """Of a proxy that tells what reached it."""

    async def answer(scope, receive, send):
        received, more = b"", True
        while more:
            message = await receive()
            received, more = received + message["body"], message.get("more_body", False)
        found = {"session": Headers(scope=scope).getlist("x-session-id"), "length": len(received)}
        await send(start(200, "application/json"))
        await send(body(json.dumps({**found, "end": received[-20:].decode(errors="replace")}).encode()))

    return TestClient(ReplicaProxy(answer))


def session(echo: TestClient, asked: object, path: str = CHAT, **headers: str) -> str | None:
    found = echo.post(path, json=asked, headers=headers).json()["session"]
    return found[0] if found else None


def test_a_conversation_is_known_by_who_asks_and_how_it_begins(echo):
    asked = {"messages": [SYSTEM, FIRST]}
    known = session(echo, asked, authorization="Bearer a")
    assert known == session(echo, {"messages": [SYSTEM, FIRST, *REST], "max_tokens": 9}, authorization="Bearer a")
    others = [
        session(echo, asked, authorization="Bearer b"),
        session(echo, {"messages": [FIRST]}, authorization="Bearer a"),
        session(echo, {"messages": [SYSTEM, {**FIRST, "content": "How do I make pie?"}]}, authorization="Bearer a"),
        session(echo, {"messages": [SYSTEM, {**FIRST, "content": [{"type": "text", "text": "Hi"}]}]}),
    ]
    assert len({known, *others}) == 5
    assert "soup" not in known


def test_a_prompt_is_known_by_its_beginning(echo):
    long = "a" * OPENING
    assert session(echo, {"prompt": long}) == session(echo, {"prompt": long + "b"})
    assert session(echo, {"prompt": long}) != session(echo, {"prompt": "b" + long})


def test_all_proxies_with_one_secret_come_to_the_same_name_and_nobody_else_does(echo, monkeypatch):
    names = []
    for secret in ("", "b" * 64, "a" * 64):
        monkeypatch.setenv(SECRET, secret)
        names.append(session(echo, {"messages": [FIRST]}))
    assert len(set(names)) == 3
    # another proxy, or this one after it was started again
    code = (
        "import sys; from langchain_saffron.server.sessions import Headers, conversation; "
        "sys.stdout.write(conversation(Headers(), sys.argv[1], sys.argv[2].encode()))"
    )
    command = [sys.executable, "-c", code, CHAT, json.dumps({"messages": [FIRST]})]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == names[-1]


def test_a_deployment_has_a_secret_of_its_own_unless_the_operator_gives_one(monkeypatch):
    monkeypatch.setenv(SECRET, "")
    share_secret()
    assert len(os.environ[SECRET]) == 64
    monkeypatch.setenv(SECRET, "mine")
    share_secret()
    assert os.environ[SECRET] == "mine"


@pytest.mark.parametrize("name", ["X-Session-Id", "x_session_id"])
def test_what_a_client_says_itself_holds(echo, name):
    found = echo.post(CHAT, json={"messages": [FIRST]}, headers={name: "mine"}).json()["session"]
    assert found == (["mine"] if "-" in name else [])


def test_operators_name_the_header(echo, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_SESSION_ID_HEADER_KEY", "X-Talk")
    assert session(echo, {"messages": [FIRST]}) is None
    assert session(echo, {"messages": [FIRST]}, **{"X-Talk": "mine"}) is None


DEEP = b"[" * 100_000
NONE = [b"", b"{", b"[]", b"7", b'{"messages": 5}', b'{"messages": [1]}', b"\xff", DEEP, b'{"x": 1, "y": ' + DEEP]


@pytest.mark.parametrize("asked", NONE)
def test_what_is_no_conversation_goes_to_any_replica(echo, asked):
    found = echo.post(CHAT, content=asked).json()
    assert (found["session"], found["length"]) == ([], len(asked))


@pytest.mark.parametrize("size", [100, READ_BEFORE - 100, READ_BEFORE + 100])
def test_a_body_reaches_the_replica_whole_and_in_any_pieces(echo, size):
    asked = json.dumps({"messages": [{**FIRST, "content": "x" * size}]}).encode()
    pieces = (asked[at : at + 100_000] for at in range(0, len(asked), 100_000))
    found = echo.post(CHAT, content=pieces).json()
    assert (found["length"], found["end"]) == (len(asked), asked[-20:].decode())
    assert bool(found["session"]) == (len(asked) <= READ_BEFORE)


def test_what_steers_serve_does_not_come_from_a_client():
    reached: list[bytes] = []

    async def answer(scope, receive, send):
        reached.extend(name for name, _ in scope["headers"])
        await send(start(200, "application/json"))
        await send(body(b"{}"))

    TestClient(ReplicaProxy(answer)).post(CHAT, headers={name.decode(): "?1" for name in NOT_FOR_CLIENTS})
    assert b"content-length" in reached
    assert not {*NOT_FOR_CLIENTS} & {*reached}


def test_no_more_of_a_body_is_read_than_replicas_take(monkeypatch):
    monkeypatch.setenv(MAX_BODY, "1000")
    sizes: list[int] = []

    async def waiting(scope, receive, send):
        # as Serve reads ahead while no replica is free
        while (message := await receive())["type"] != "http.disconnect":
            sizes.append(len(message["body"]))

    found = TestClient(ReplicaProxy(waiting)).post(CHAT, content=(b"x" * 100_000 for _ in range(50)))
    assert (found.status_code, found.json()["error"]["code"]) == (413, "request_too_large")
    assert sum(sizes) <= 1000 + READ_BEFORE


@pytest.fixture
def waiting() -> ASGIApp:
    """As Serve while no replica is free: it reads, and gives up where the client does."""

    async def wait(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    return wait


def test_a_request_waits_for_the_next_replica_for_a_while_only(waiting, monkeypatch):
    monkeypatch.setenv(MAX_WAIT, "0.3")
    begun = time.monotonic()
    found = TestClient(ReplicaProxy(waiting, Standing(lambda: False))).post(CHAT, json={"messages": [FIRST]})
    assert 0.3 <= time.monotonic() - begun < 3
    assert (found.status_code, found.json()["error"]["code"]) == (503, "unavailable")
    assert found.headers["retry-after"]


@pytest.mark.parametrize("late", [0.3, 0.0])
def test_a_request_that_a_replica_works_on_or_streams_is_let_alone(late, monkeypatch):
    monkeypatch.setenv(MAX_WAIT, "0.05")
    asked: list[int] = []

    def there() -> bool:
        asked.append(1)
        # none is left while this one streams
        return bool(late)

    async def answer(scope, receive, send):
        await asyncio.sleep(late)
        await send(start(200, "application/json"))
        await send(body(b"1", True))
        await asyncio.sleep(0.2)
        await send(body(b"2"))

    found = TestClient(ReplicaProxy(answer, Standing(there))).post(CHAT, json={"messages": [FIRST]})
    assert (found.status_code, found.text) == (200, "12")
    assert len(asked) == bool(late)


@pytest.mark.parametrize("said", ["soon", "-1", "inf", "nan"])
def test_a_wait_that_is_none_is_told(said, monkeypatch):
    monkeypatch.setenv(MAX_WAIT, said)
    with pytest.raises(SettingsError, match=MAX_WAIT):
        max_wait()


def test_one_question_is_asked_for_all_that_wait_and_no_answer_is_none(monkeypatch):
    monkeypatch.setenv(MAX_WAIT, "0")
    asked: list[int] = []

    def fail() -> bool:
        asked.append(1)
        raise RuntimeError("no controller")

    async def all_wait() -> None:
        standing = Standing(fail)
        _, pending = await asyncio.wait([asyncio.create_task(standing.none_for_long()) for _ in range(50)], timeout=0.2)
        assert len(pending) == 50

    asyncio.run(all_wait())
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(404, "unavailable"), (503, "overloaded"), (500, "replica_lost"), (408, "replica_lost")]
)
def test_what_serve_says_in_plain_text_is_an_error_of_ours(status, code):
    found = client_of(start(status, "text/plain"), body(b"Ping /-/routes", True), body(b"")).post(CHAT)
    assert (found.status_code, found.json()["error"]["code"]) == (503, code)
    assert found.headers["retry-after"]


def test_a_replicas_own_error_stays_as_it_is():
    found = client_of(start(404, "application/json"), body(b'{"error": 1}')).get("/v1/models/x")
    assert (found.status_code, found.json()) == (404, {"error": 1})


def test_a_proxy_that_says_nothing_is_a_lost_replica():
    assert client_of().post(CHAT).json()["error"]["code"] == "replica_lost"


def test_a_stream_that_is_cut_ends_with_an_error_and_a_whole_one_does_not():
    begun = [start(200, "text/event-stream"), body(b"data: 1\n\n", True)]
    lines = client_of(*begun).post(CHAT).text.split("\n\n")
    assert lines[0] == "data: 1"
    assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert lines[2:] == ["data: [DONE]", ""]
    assert client_of(*begun, body(b"data: [DONE]\n\n")).post(CHAT).text == "data: 1\n\ndata: [DONE]\n\n"


def test_serve_is_given_it_by_name():
    assert [one.cls for one in middlewares()] == [ReplicaProxy]
