"""Whatever is wrong with a request, the answer is one that OpenAI's clients can read."""

import logging

import pytest

from langchain_saffron import errors
from langchain_saffron.server.errors import api_error

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize(
    ("more", "status", "param", "told"),
    [
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": [{"role": "x", "content": "y"}]}, 400, "messages.0.role", "'system', 'developer'"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0", "needs a content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0", "tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "text model"),
        ({"model": "gpt-9"}, 404, "model", "'gpt-9' is not served here: ask for 'kitchen'"),
        ({"n": 2}, 400, "n", "n: one answer a request"),
        ({"logprobs": True}, 400, "logprobs", "logprobs: this server tells no probabilities"),
        ({"logit_bias": {"1": 2}}, 400, "logit_bias", "single tokens"),
        ({"modalities": ["text", "audio"]}, 400, "modalities.1", "text only"),
        ({"efort": "low"}, 400, "efort", "no such field"),
        ({"effort": "huge"}, 400, "effort", "'off', 'low'"),
        ({"stop": ["x"] * 10_000}, 400, "stop", "at most 64"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, None, "another name"),
        ({"response_format": {"type": "regex", "regex": "("}}, 400, None, "unclosed group"),
        ({"response_format": {"type": "odd"}}, 400, None, "odd"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"$ref": "#/x"}}}]},
            400,
            "tools",
            "'a'",
        ),
        ({"max_reward_calls": 1, "max_tflops": 1e-12}, 400, None, "prompt"),
        ({"width": 65}, 400, "width", "64"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_with_a_request_is_said(client, more, status, param, told, stream):
    response = client.post(CHAT, json={"messages": HELLO, **more, "stream": stream})
    error = response.json()["error"]
    assert response.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert told in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("POST", "/v1/responses", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/models/x", 404, "model_not_found"),
    ],
)
def test_wrong_places_and_methods(client, method, path, status, code):
    response = client.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert ("this server has /v1/chat/completions" in error["message"]) == (code == "not_found")


def test_a_prompt_that_is_too_long(client):
    long = [{"role": "user", "content": "soup " * 3000}]
    for stream in (False, True):
        response = client.post(CHAT, json={"messages": long, "stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff", b"[" * 100_000, b'{"seed":' + b"9" * 5000 + b"}"])
def test_a_body_that_is_none(client, body):
    response = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value")


def test_a_client_that_says_it_wants_text_gets_text(client):
    response = client.post(CHAT, json={"messages": HELLO, "modalities": ["text"], "max_tokens": 1})
    assert response.status_code == 200
    assert response.json()["id"].startswith("chatcmpl-")
    completed = client.post("/v1/completions", json={"prompt": "Hello!", "max_tokens": 1})
    assert completed.json()["id"].startswith("cmpl-")


def test_what_is_no_json_by_its_type(client):
    error = client.post(CHAT, content=b'{"messages": []}', headers={"Content-Type": "text/plain"}).json()["error"]
    assert "application/json" in error["message"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.EngineBusyError("full"), 503, "server_error"),
        (errors.RequestTimeoutError("late"), 504, "server_error"),
        (errors.ModelNotFoundError("none"), 404, "invalid_request_error"),
        (errors.CacheFullError("full"), 400, "invalid_request_error"),
        (errors.NumericalError("NaN"), 500, "server_error"),
        (ZeroDivisionError("what was asked"), 500, "server_error"),
    ],
)
def test_errors_of_ours_have_a_status(error, status, kind):
    told = api_error(error)
    assert (told.status_code, told.body["error"]["type"]) == (status, kind)
    assert (status == 503) == ("Retry-After" in (told.headers or {}))


def test_what_nobody_expected_is_neither_told_nor_logged_with_its_text(client, monkeypatch, caplog):
    from langchain_saffron.server import chat_route

    prompt = "the secret"

    def fail(*_):
        raise ZeroDivisionError(prompt)

    monkeypatch.setattr(chat_route, "chat_options", fail)
    with caplog.at_level(logging.INFO):
        for stream in (False, True):
            response = client.post(CHAT, json={"messages": HELLO, "stream": stream})
            assert response.status_code == 500
            assert response.json()["error"]["code"] == "internal_error"
            assert "secret" not in response.text
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text
