"""How many replicas a load needs, predicted and measured: `python -m integration_tests.replica_capacity`.

The README's formula takes what one replica answers a second, and multiplies. Here one process says that figure, and two
replicas are measured against twice of it, in turns, and against two processes side by side without Ray: that says what
of the difference is the machine's, which the clients are on, too. How many cores they had is told with it: where other
programs run, that explains more than all else. Then requests come by chance at half of the prediction, as the formula
has it, and it is seen how long they wait.
"""

import argparse
import asyncio
import random
import statistics
import time
import uuid

import httpx
import psutil

from integration_tests.served import Served, served

DISHES = ("tomato soup", "leek pie", "lemon tart", "mushroom stew", "onion bread")
LONGEST = 40
# of the prediction, that replicas should be asked for
LOADED = 0.5


async def ask(client: httpx.AsyncClient, number: int) -> float:
    """One request, a conversation of its own; the seconds that it took."""
    body = {"messages": [{"role": "user", "content": f"How do I make {DISHES[number % len(DISHES)]}?"}]}
    begun = time.perf_counter()
    answer = await client.post("/v1/chat/completions", json=body, headers={"X-Session-Id": uuid.uuid4().hex})
    answer.raise_for_status()
    return time.perf_counter() - begun


def connected(server: Served) -> httpx.AsyncClient:
    """A client of it."""
    return httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=None))


async def full(server: Served, clients: int, seconds: float) -> float:
    """Answers a second where so many clients ask again as soon as they are answered."""
    async with connected(server) as client:
        begun = time.perf_counter()

        async def one(number: int) -> int:
            answers = 0
            while time.perf_counter() - begun < seconds:
                await ask(client, number + answers)
                answers += 1
            return answers

        answers = sum(await asyncio.gather(*map(one, range(clients))))
        return answers / (time.perf_counter() - begun)


async def all_full(servers: list[Served], clients: int, seconds: float) -> float:
    """The same of several servers at once, each with its own clients: the sum."""
    return sum(await asyncio.gather(*(full(server, clients, seconds) for server in servers)))


def cpu_seconds(servers: list[Served]) -> float:
    """What they and their processes have computed so far."""
    roots = [psutil.Process(server.process.pid) for server in servers]
    processes = [*roots, *(child for root in roots for child in root.children(recursive=True))]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def arriving(server: Served, rate: float, seconds: float) -> list[float]:
    """The seconds of each of the requests that come by chance, so many a second on average."""
    async with connected(server) as client:
        chance, tasks, begun, due = random.Random(0), [], time.perf_counter(), 0.0
        while due < seconds:
            await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, len(tasks))))
            due += chance.expovariate(rate)
        return await asyncio.gather(*tasks)


def main() -> None:
    """Measure, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8, help="a replica")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    arguments = ("--effort", "medium", "--max-tokens", str(LONGEST))
    rounds: list[tuple[float, float, float]] = []
    with served(*arguments) as one, served(*arguments) as other, served(*arguments, "--replicas", "2") as two:
        for server in (one, other, two):
            asyncio.run(full(server, options.clients, 2))
        for _ in range(options.rounds):
            shown = []
            for name, servers, clients in (
                ("one process", [one], options.clients),
                ("two side by side", [one, other], options.clients),
                ("two replicas", [two], 2 * options.clients),
            ):
                begun, spent = time.perf_counter(), cpu_seconds(servers)
                found = asyncio.run(all_full(servers, clients, options.seconds))
                cores = (cpu_seconds(servers) - spent) / (time.perf_counter() - begun)
                print(f"{name}: {found:.1f} answers/s on {cores:.2f} cores", flush=True)
                shown.append(found)
            rounds.append(tuple(shown))
        ones, besides, twos = zip(*rounds, strict=True)
        alone = sorted(asyncio.run(arriving(one, 1.0, options.seconds)))
        rate = LOADED * 2 * statistics.median(ones)
        waited = sorted(asyncio.run(arriving(two, rate, options.seconds)))
    of_prediction = statistics.median(both / (2 * single) for single, both in zip(ones, twos, strict=True))
    of_beside = statistics.median(both / beside for beside, both in zip(besides, twos, strict=True))
    print(f"medians: two replicas {of_prediction:.2f} of the prediction, {of_beside:.2f} of two processes side by side")
    print(
        f"one request a second at one process: median {statistics.median(alone):.2f} s; {rate:.1f} a second at two "
        f"replicas: median {statistics.median(waited):.2f} s, 19 of 20 within {waited[int(0.95 * len(waited))]:.2f} s"
    )


if __name__ == "__main__":
    main()
