"""`saffron serve --replicas`: two processes of the kitchen behind one port; one of them dies, and the end."""

import os
import re
import signal
import time
from collections import Counter

import httpx
import psutil
import pytest
from langchain_openai import ChatOpenAI

from integration_tests.replica_kill import kill_one, replicas_of
from integration_tests.served import Served, served
from integration_tests.streams import streams
from langchain_saffron import ChatSaffron
from langchain_saffron.extras import REPLICAS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REPLICAS.available(), reason="Ray is not installed: pip install 'langchain-saffron[ray]'"),
]

SOUP = "How do I make tomato soup?"
KEY = "sk-kitchen"
HEADERS = {"Authorization": f"Bearer {KEY}"}
# seconds for which a request waits while there is no replica
WAIT = 2
VARIABLES = {"SAFFRON_API_KEY": KEY, "SAFFRON_PROXY_WAIT": str(WAIT)}
# of 100, `python -m integration_tests.replica_kill` tells the figures
STREAMS = 100 if os.environ.get("SAFFRON_ALL_FIGURES") else 12


@pytest.fixture(scope="module")
def server():
    """The tests are in the order of what is left of it."""
    with served("--replicas", "2", "--effort", "off", "--max-running", str(STREAMS), **VARIABLES) as running:
        yield running


@pytest.fixture(scope="module")
def processes(server) -> list[psutil.Process]:
    """All that was started."""
    return psutil.Process(server.process.pid).children(recursive=True)


def ask(
    server: Served, question: str, *more: dict, session: str | None = None, timeout: float = 60, **fields
) -> httpx.Response:
    messages = [{"role": "user", "content": question}, *more]
    headers = HEADERS | ({} if session is None else {"X-Session-Id": session})
    asked = {"messages": messages, "max_tokens": 2, **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=asked, headers=headers, timeout=timeout)


def answered(server: Served) -> Counter[str]:
    """Answers by replica."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'^saffron:request_success_total{.*replica="(\d)"} (\S+)$', text, re.MULTILINE)
    counts: Counter[str] = Counter()
    for replica, count in found:
        counts[replica] += round(float(count))
    return counts


def test_answers_and_errors_are_those_of_one_process(server):
    chat = ChatOpenAI(model="kitchen", base_url=f"{server.url}/v1", api_key=KEY)
    expected = ChatSaffron(model="kitchen", effort="off").invoke(SOUP).text
    assert chat.invoke(SOUP).text == expected
    assert "".join(chunk.text for chunk in chat.stream(SOUP)) == expected
    refused = httpx.post(f"{server.url}/v1/chat/completions", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert ask(server, SOUP, oven=1).json()["error"]["param"] == "oven"
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert KEY not in server.log


@pytest.mark.parametrize("named", [True, False])
def test_a_conversation_stays_with_its_replica_and_conversations_spread(server, named):
    homes = set()
    for number in range(12):
        before = answered(server)
        for turn in range(3):
            more = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"And {turn}?"}] * turn
            # a named one may begin as it likes
            first = f"Hello {turn if named else number}!"
            session = f"{named} {number}" if named else None
            assert ask(server, first, *more, session=session).status_code == 200
        (home,) = (answered(server) - before).items()
        assert home[1] == 3
        homes.add(home[0])
    assert homes == {"0", "1"}


def test_who_leaves_stops_the_search(server):
    with pytest.raises(httpx.ReadTimeout):
        ask(server, SOUP, min_tokens=1500, max_tokens=1500, timeout=0.5)
    server.wait_for("num_requests_running", 0)
    assert server.metric("request_success", 'finished_reason="abort"') == 1


def test_a_replica_that_dies_takes_its_own_streams_with_it_and_nothing_else(server):
    found = kill_one(server, STREAMS, 120, HEADERS)
    assert set(found.streams) == {"replica_lost", "length"}
    assert sum(found.streams.values()) == STREAMS
    assert found.cut_after < 2
    assert not found.failed
    assert found.slowest < 5
    assert found.replaced_after


def test_with_all_replicas_gone_requests_are_told_so_in_time_and_the_next_replica_answers(server):
    for one in replicas_of(server):
        one.kill()
    told = []
    while not told or told[-1] != "answered":
        begun = time.monotonic()
        found = ask(server, "Who is there?")
        assert time.monotonic() - begun < WAIT + 8
        told.append("answered" if found.status_code == 200 else found.json()["error"]["code"])
        assert found.status_code == 200 or found.headers["retry-after"]
        assert len(told) < 60
    assert "unavailable" in told
    assert set(told) <= {"replica_lost", "unavailable", "answered"}


def test_a_signal_lets_answers_end_and_leaves_no_process(server, processes):
    running = streams(server, 2, 300, HEADERS)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    refused = ask(server, SOUP)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert httpx.get(f"{server.url}/health").status_code == 503
    for one in running:
        one.join(60)
        assert one.fate == "length"
    assert server.process.wait(30) == 0
    _, alive = psutil.wait_procs(processes, 10)
    assert not alive
