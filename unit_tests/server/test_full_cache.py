"""A KV cache that is too small for as wide a search as was asked for, as clients and operators see it."""

import json
import logging
import re

from starlette.testclient import TestClient

from langchain_saffron import ChatSaffron
from langchain_saffron.cli import main

CHAT = "/v1/chat/completions"
SOUP = [{"role": "user", "content": "How do I make a leek soup with thyme?"}]


def test_answers_are_narrower_and_say_so_before_any_fails(client_of, tmp_path):
    file = tmp_path / "audit.jsonl"
    # all tokens are candidates, so that beams share little
    chat = ChatSaffron(model="kitchen", effort="high", top_p=1.0, min_tokens=30, max_tokens=30, max_cache_tokens=80)
    client = client_of(chat, audit_log=file)
    asked = {"messages": SOUP}
    plain, wide = (client.post(CHAT, json={**asked, **more}) for more in ({"effort": "low"}, {}))
    assert [answer.status_code for answer in (plain, wide)] == [200, 200]
    assert (plain.json()["saffron"]["narrowed"], plain.json()["saffron"]["narrowest_width"]) == (0, None)
    told = wide.json()["saffron"]
    assert told["narrowed"] > 0
    assert 1 <= told["narrowest_width"] < told["width"] == 16
    # as the last event of a stream says
    streamed = client.post(CHAT, json={**asked, "stream": True}).text
    (found,) = {int(count) for count in re.findall(r'"narrowest_width":(\d+)', streamed)}
    assert found == told["narrowest_width"]
    # who wants no narrower search gets none
    strict = client.post(CHAT, json={**asked, "min_width": 16})
    assert (strict.status_code, strict.json()["error"]["code"]) == (400, "context_length_exceeded")
    text = client.get("/metrics").text
    assert re.search(r"^saffron:narrowed_total\{.*\} 2\.0$", text, re.MULTILINE)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    noted = [line for line in lines if "narrowed" in line["why"]]
    assert [line["narrowest_width"] for line in noted] == [told["narrowest_width"]] * 2


def test_a_request_can_only_raise_the_servers_own(client_of):
    chat = ChatSaffron(model="kitchen", effort="high", top_p=1.0, max_cache_tokens=80, min_width=16)
    client = client_of(chat)
    asked = {"messages": SOUP, "min_tokens": 30, "max_tokens": 30}
    assert [client.post(CHAT, json={**asked, **more}).status_code for more in ({}, {"min_width": 1})] == [400, 400]


def test_both_are_options_of_saffron_serve(monkeypatch):
    apps = []
    monkeypatch.setattr("langchain_saffron.server.process.serve", lambda app, *rest: apps.append(app))
    # other tests read these logs
    monkeypatch.setattr(logging.getLogger("langchain_saffron.server"), "setLevel", lambda level: None)
    assert main(["serve", "--port", "0", "--effort", "high", "--max-cache-tokens", "61", "--min-width", "16"]) == 0
    with_room = {"messages": SOUP, "max_tokens": 2}
    without = {**with_room, "min_tokens": 30, "max_tokens": 30, "top_p": 1.0}
    with TestClient(apps[0], raise_server_exceptions=False) as client:
        answers = [client.post(CHAT, json=asked) for asked in (with_room, without)]
    assert [answer.status_code for answer in answers] == [200, 400]
