"""An operator's rules: which hold, what they leave of a request, and that mistakes in a file are told."""

import json

import pytest

from langchain_saffron import ChatSaffron
from langchain_saffron.cli import main
from langchain_saffron.errors import RewardModelRequiredError, SettingsError
from langchain_saffron.server.rules import Asker, Rules

CHAT = "/v1/chat/completions"
SOUP = [{"role": "user", "content": "How do I make tomato soup?"}]
TEXT = """
rules:
  - default: {effort: off}
  - name: guests
    when: {tenant: [guest, anonymous]}
    at_most: {effort: medium, max_tokens: 20, max_tflops: 0.5}
  - name: post
    when: {tool: send_email}
    at_least: {effort: high, refusal_threshold: 1.0}
    always: {refusal_text: "Ask a person."}
  - when: {route: completions}
    at_most: {width: 2}
"""


@pytest.fixture
def rules(tmp_path):
    def read(text: str = TEXT) -> Rules:
        file = tmp_path / "rules.yaml"
        file.write_text(text, encoding="utf-8")
        return Rules.read(file)

    return read


@pytest.mark.parametrize(
    ("asker", "names"),
    [
        (Asker("chat", "tenant-staff"), ["rule 1"]),
        (Asker("chat", "tenant-guest"), ["rule 1", "guests"]),
        (Asker("chat", "anonymous", ["add", "send_email"]), ["rule 1", "guests", "post"]),
        (Asker("completions", "tenant-staff"), ["rule 1", "rule 4"]),
    ],
)
def test_rules_hold_where_all_of_when_is_met(rules, asker, names):
    assert [rule.name for rule in rules().matching(asker)] == names


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        # what nobody says stays unsaid, but for bounds
        ({}, {"effort": "off", "max_tokens": 20, "max_tflops": 0.5}),
        ({"effort": "low"}, {"effort": "low", "max_tokens": 20, "max_tflops": 0.5}),
        ({"effort": "max"}, {"effort": "medium", "max_tokens": 20, "max_tflops": 0.5}),
        # it may be as wide as high
        ({"effort": "auto"}, {"effort": "medium", "max_tokens": 20, "max_tflops": 0.5}),
        ({"effort": "low", "width": 9}, {"effort": "low", "width": 4, "max_tokens": 20, "max_tflops": 0.5}),
        ({"max_tokens": 7, "max_tflops": 0.1}, {"effort": "off", "max_tokens": 7, "max_tflops": 0.1}),
        ({"max_tokens": 70, "max_tflops": 9.0}, {"effort": "off", "max_tokens": 20, "max_tflops": 0.5}),
    ],
)
def test_a_request_keeps_within_upper_bounds(rules, asked, left):
    assert rules().apply(asked, Asker("chat", "tenant-guest"), {"effort": "medium"}) == (left, ["rule 1", "guests"])


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, {"effort": "high", "refusal_threshold": 1.0}),
        ({"effort": "low"}, {"effort": "high", "refusal_threshold": 1.0}),
        # it may be as narrow as low
        ({"effort": "auto"}, {"effort": "high", "refusal_threshold": 1.0}),
        ({"effort": "max", "width": 1}, {"effort": "max", "width": 16, "refusal_threshold": 1.0}),
        ({"refusal_threshold": 0.0}, {"effort": "high", "refusal_threshold": 1.0}),
        ({"refusal_threshold": 2.0}, {"effort": "high", "refusal_threshold": 2.0}),
    ],
)
def test_a_request_keeps_within_lower_bounds(rules, asked, left):
    found, _ = rules().apply(asked, Asker("chat", "tenant-staff", ["send_email"]), {"effort": "medium"})
    assert found == {"refusal_text": "Ask a person.", "width_floor": 16, **left}


def test_a_lower_bound_wins_and_the_operators_own_width_is_bound_too(rules):
    found, names = rules().apply({}, Asker("chat", "tenant-guest", ["send_email"]), {"effort": "low", "width": 1})
    assert (found["effort"], found["width"]) == ("high", 16)
    assert names == ["rule 1", "guests", "post"]
    found, _ = rules().apply({}, Asker("completions", "tenant-staff"), {"effort": "medium", "width": 50})
    assert (found["effort"], found["width"]) == ("off", 2)


def test_of_several_defaults_the_last_holds_and_of_bounds_the_strictest(rules):
    text = """
    rules:
      - {default: {effort: low, max_tokens: 9}, at_most: {width: 3}, at_least: {refusal_threshold: 2}}
      - {default: {effort: high}, at_most: {width: 8}, at_least: {refusal_threshold: 1}}
    """
    found, _ = rules(text).apply({}, Asker("chat", "anonymous"), {})
    assert found == {"effort": "high", "width": 3, "max_tokens": 9, "refusal_threshold": 2.0}


@pytest.mark.parametrize(
    ("least", "asked", "own", "narrowest", "floor"),
    [
        ({"min_width": 4}, {}, {}, 4, None),
        ({"min_width": 4}, {"min_width": 2}, {}, 4, None),
        ({"min_width": 4}, {"min_width": 8}, {}, 8, None),
        ({"min_width": 4}, {}, {"min_width": 6}, 6, None),
        # what a request cannot go below is a floor for all, and no leave to be narrow
        ({"effort": "high"}, {"effort": "max"}, {}, None, 16),
        ({"width": 3}, {"min_width": 2}, {"min_width": None}, 2, 3),
        ({"width": 3, "min_width": 2}, {}, {"width_floor": 5}, 2, 5),
        ({"effort": "low"}, {"min_width": 2}, {}, 2, None),
        ({"effort": "auto"}, {}, {}, None, None),
    ],
)
def test_a_lower_bound_holds_where_the_cache_is_full(rules, least, asked, own, narrowest, floor):
    found, _ = rules(json.dumps({"rules": [{"at_least": least}]})).apply(asked, Asker("chat", "anonymous"), own)
    assert (found.get("min_width"), found.get("width_floor")) == (narrowest, floor)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules: [", "cannot be read"),
        ("- effort: low", "'rules:'"),
        ("rules: []", "at least 1"),
        ("rules: [{default: {efort: low}}]", "efort"),
        ("rules: [{default: {effort: lots}}]", "effort"),
        ("rules: [{when: {route: embeddings}}]", "route"),
        ("rules: [{at_most: {max_tokens: 0}}]", "max_tokens"),
        ("rules: [{always: {refusal_threshold: 1}}]", "refusal_threshold"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(rules, tmp_path, capsys, text, named):
    with pytest.raises(SettingsError, match=named):
        rules(text)
    assert main(["serve", "--rules", str(tmp_path / "rules.yaml")]) == 2
    assert named in " ".join(capsys.readouterr().err.split())


def test_a_last_look_holds_whatever_a_request_says(rules):
    found = rules("rules: [{when: {tenant: guest}, always: {verify: prm}}]")
    assert found.apply({"effort": "low"}, Asker("chat", "tenant-guest"), {})[0] == {"effort": "low", "verify": "prm"}
    assert "verify" not in found.apply({}, Asker("chat", "tenant-staff"), {})[0]
    assert found.verify
    assert not rules().verify


def test_rules_that_ask_a_process_reward_model_need_one(client_of, rules):
    with pytest.raises(RewardModelRequiredError, match="--prm"):
        client_of(rules=rules("rules: [{always: {verify: prm}}]"))


def test_a_requests_own_budget_is_no_way_below_a_lower_bound(client_of, rules):
    bound = rules("rules: [{when: {tenant: guest}, at_least: {width: 3}}]")
    chat = ChatSaffron(model="kitchen", effort="high", top_p=1.0, max_tokens=12, min_tokens=12)
    client = client_of(chat, api_keys=("guest:sk-1", "staff:sk-2"), rules=bound)

    def ask(key: str, **more):
        asked = {"messages": SOUP, "max_reward_calls": 12, "on_budget": "narrow", **more}
        response = client.post(CHAT, json=asked, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        return response.json()["saffron"]["width"], choice["finish_reason"], response.json()["usage"]

    # without the bound, the whole answer fits, by one beam
    width, _, usage = ask("sk-2")
    assert (width, usage["completion_tokens"]) == (1, 12)
    width, reason, usage = ask("sk-1")
    assert (width, reason) == (3, "length")
    assert usage["completion_tokens"] < 12
    # a request has no such field
    refused = client.post(CHAT, json={"messages": SOUP, "width_floor": 1}, headers={"Authorization": "Bearer sk-1"})
    assert (refused.status_code, "width_floor" in refused.text) == (400, True)


def test_requests_are_answered_by_the_rules(client_of, rules):
    chat = ChatSaffron(model="kitchen", effort="low", max_tokens=40)
    client = client_of(chat, api_keys=("guest:sk-1", "staff:sk-2"), rules=rules())
    tool = {"type": "function", "function": {"name": "send_email", "parameters": {"type": "object", "properties": {}}}}

    def ask(key: str, route: str = CHAT, **more):
        asked = {"messages": SOUP} if route == CHAT else {"prompt": "Soup is"}
        response = client.post(route, json={**asked, **more}, headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200, response.text
        return response.json()

    said = ask("sk-1", effort="max")
    assert said["saffron"]["effort"] == "medium"
    assert said["usage"]["completion_tokens"] <= 20
    assert ask("sk-2", max_tokens=4)["saffron"]["effort"] == "off"
    assert ask("sk-2", max_tokens=4, tools=[tool], effort="low")["saffron"]["effort"] == "high"
    (said,) = ask("sk-2", "/v1/completions", effort="high", max_tokens=4)["saffron"]
    assert (said["effort"], said["width"]) == ("high", 2)
