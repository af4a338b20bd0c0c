"""A guard behind an endpoint: a real HTTP server that answers as one does, and fails as one does."""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import GuardFailedError, SettingsError
from langchain_saffron.models.endpoint_guard import EndpointGuard, verdict_reward
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.text_prm import TextRewardModel
from unit_tests.tiny_models import tiny_tokenizer


def token(text, logprob, **others):
    named = [{"token": one, "logprob": chance} for one, chance in {text: logprob, **others}.items()]
    return {"token": text, "logprob": logprob, "top_logprobs": named}


def verdict(text):
    """What the stand-in thinks of an answer: the longer, the worse."""
    bad = -0.1 * len(text)
    return [token("\n\n", -0.01, x=-5.0), token("safe", bad, **{"unsafe": -1.0, "other": -9.0})]


@contextmanager
def endpoint(failing=(), models=("guard",), told=verdict):
    """A server; `failing` holds what its first answers are: a status, or text that is no JSON."""
    failing, asked = list(failing), []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.answer(200, json.dumps({"data": [{"id": name} for name in models]}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((body, self.headers.get("Authorization")))
            if failing:
                first = failing.pop(0)
                return self.answer(*(first, "no") if isinstance(first, int) else (200, first))
            content = told(body["messages"][-1]["content"])
            return self.answer(200, json.dumps({"choices": [{"logprobs": {"content": content}}]}))

        def answer(self, status, text):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def talk(answer):
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]


def test_it_asks_for_the_verdicts_of_conversations(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with endpoint() as (url, asked):
        assert EndpointGuard(url)([talk("aa"), talk("bbbb" * 5)]) == pytest.approx([0.8, -1.0])
    body, key = next(one for one in asked if one[0]["messages"] == talk("aa"))
    assert (body["model"], body["temperature"], body["logprobs"], key) == ("guard", 0, True, "Bearer k")


@pytest.mark.parametrize("failure", [503, 429, "no JSON", "{}"])
def test_a_failure_that_passes_is_asked_again_and_counted(failure):
    retries = Retries(wait=0)
    with endpoint([failure] * 2) as (url, _):
        guard = ProcessRewardModel.from_function(EndpointGuard(url), tiny_tokenizer(), "g", retries)
        model = TextRewardModel(guard, tiny_tokenizer())
        rewards = model.prefix_rewards(model.prompt_ids([("user", "hi")]), tiny_tokenizer().encode("salt and rice"))
    assert bool(rewards.isfinite().all())
    assert rewards[0] > rewards[-1]
    assert retries.counts["not_a_number"] + retries.counts["errors"] >= 1


def test_a_time_out_is_one_failure_and_then_an_error():
    hang = threading.Event()

    def slow(text):
        hang.wait(5)
        return verdict(text)

    with endpoint(told=slow) as (url, _):
        guard = EndpointGuard(url, "guard", timeout=0.05)
        with pytest.raises(GuardFailedError, match=r"1 of 1 texts in 2 attempts: ReadTimeout"):
            Retries(2, wait=0).rewards(guard, [talk("a")], guard.name)
        hang.set()


def test_what_no_attempt_mends_is_told_at_once():
    with endpoint([401]) as (url, asked), pytest.raises(SettingsError, match="refused \\(401\\)"):
        Retries(wait=0).rewards(EndpointGuard(url), [talk("a")], "g")
    assert len(asked) == 1
    with endpoint(told=lambda text: []) as (url, _), pytest.raises(SettingsError, match="logprobs"):
        EndpointGuard(url)([talk("a")])
    with endpoint(models=("a", "b")) as (url, _), pytest.raises(SettingsError, match=r"guard_model: .* a, b"):
        EndpointGuard(url)([talk("a")])


def test_a_verdict_is_the_first_word_that_is_one():
    assert (
        verdict_reward([token("Safety", -1), token(":", 0), token(" Uns", -0.5, **{" Safe": -1.0})], "Safe", "Unsafe")
        == -0.5
    )
    # a word that is not among the likeliest counts as the last of these
    assert verdict_reward([token("unsafe", -0.1, a=-3.0, b=-7.5)], "safe", "unsafe") == pytest.approx(-7.4)
    assert math.isnan(verdict_reward([token("I", -0.1), token("'m", -0.1)], "safe", "unsafe"))
