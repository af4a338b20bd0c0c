"""One of two replicas killed during many streams, then a signal: `python -m integration_tests.replica_kill`.

Streams of the kitchen's are spread over both replicas by their conversations. One replica's process is killed while all
of them run; new requests follow one another until the replica that takes its place answers, too, and nothing may hang.
Then all the streams are begun once more, and the server is told to stop: every one has to come to its end.
"""

import argparse
import json
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass

import httpx
import psutil

from integration_tests.served import Served, served
from integration_tests.streams import Stream, streams

# seconds after which a stream counts as hanging
HANGS = 180
# seconds between two new requests
PACE = 0.25


@dataclass(frozen=True)
class Killed:
    """What a killed replica did.

    Attributes:
        streams: How many there were by how they ended; see `Stream.fate`.
        cut_after: Seconds until the last stream of the killed replica had ended.
        asked: New requests, from the kill until there were two replicas again and all streams had ended.
        failed: How many of them were not answered, by the code of their error.
        slowest: Seconds of the slowest new request.
        replaced_after: Seconds until a new replica told of itself.
    """

    streams: dict[str, int]
    cut_after: float
    asked: int
    failed: dict[str, int]
    slowest: float
    replaced_after: float


def kill_one(server: Served, count: int, tokens: int, headers: dict[str, str] | None = None) -> Killed:
    """Kill one replica of two during so many streams of so many tokens."""
    running = streams(server, count, tokens, headers)
    replicas = replicas_of(server)
    replicas[0].kill()
    died = time.monotonic()
    replaced, slowest, asked, failed = 0.0, 0.0, 0, Counter[str]()
    while any(one.is_alive() for one in running) or not replaced:
        begun = time.monotonic()
        if begun - died > HANGS:
            break
        failed.update(_ask(server, asked, headers))
        slowest, asked = max(slowest, time.monotonic() - begun), asked + 1
        if not replaced and _replicas(server) == len(replicas):
            replaced = time.monotonic() - died
        time.sleep(PACE)
    fates = Counter(one.fate for one in running)
    lost = [one.ended - died for one in running if one.fate == "replica_lost"]
    return Killed(dict(fates), max(lost, default=0.0), asked, dict(failed), slowest, replaced)


def replicas_of(server: Served) -> list[psutil.Process]:
    """The processes that have the models."""
    return [one for one in psutil.Process(server.process.pid).children(recursive=True) if _is_replica(one)]


def drain(server: Served, running: list[Stream]) -> tuple[dict[str, int], int]:
    """Tell the server to stop while they run: how they end, and its exit code."""
    server.process.send_signal(signal.SIGTERM)
    for one in running:
        one.join(HANGS)
    return dict(Counter(one.fate for one in running)), server.process.wait(60)


def _ask(server: Served, number: int, headers: dict[str, str] | None) -> list[str]:
    """One new conversation; the code of its error, if any."""
    asked = {"messages": [{"role": "user", "content": f"Who is there, {number}?"}], "max_tokens": 2}
    try:
        found = httpx.post(f"{server.url}/v1/chat/completions", json=asked, headers=headers, timeout=30)
    except httpx.HTTPError as error:
        return [type(error).__name__]
    return [] if found.status_code == 200 else [str(found.json()["error"]["code"])]


def _replicas(server: Served) -> int:
    """How many tell of themselves."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    return len(set(re.findall(r'^saffron:num_requests_running{.*replica="(\d+)"}', text, re.MULTILINE)))


def _is_replica(process: psutil.Process) -> bool:
    try:
        return "ServeReplica" in process.name()
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Measure, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=300, help="of each stream")
    options = parser.parse_args()
    count = options.streams
    arguments = ("--replicas", "2", "--effort", "off", "--max-running", str(count), "--shutdown-timeout", str(HANGS))
    with served(*arguments) as server:
        killed = kill_one(server, count, options.tokens)
        json.dump(asdict(killed), sys.stdout, indent=2)
        print(flush=True)
        drained, code = drain(server, streams(server, count, options.tokens))
    print(f"drain: {drained}, exit code {code}")


if __name__ == "__main__":
    main()
