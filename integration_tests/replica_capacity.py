"""How many replicas a load needs, predicted and measured: `python -m integration_tests.replica_capacity`.

The README's formula takes what one replica answers a second, and multiplies. Here one process says that figure, and two
replicas are measured against twice of it, in turns, and against two processes side by side without Ray: that says what
of the difference is the machine's, which the clients are on, too. Then requests come by chance at seven tenths of what
was measured, and it is seen how long they wait.
"""

import argparse
import asyncio
import random
import statistics
import time
import uuid

import httpx

from integration_tests.served import Served, served

DISHES = ("tomato soup", "leek pie", "lemon tart", "mushroom stew", "onion bread")
LONGEST = 40
# of what replicas can do, that they should be asked to
LOADED = 0.7


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


async def both(one: Served, other: Served, clients: int, seconds: float) -> float:
    """The same of two servers at once, each with its own clients: the sum."""
    return sum(await asyncio.gather(full(one, clients, seconds), full(other, clients, seconds)))


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
    ones, ratios, rays, twos = [], [], [], []
    with served(*arguments) as one, served(*arguments) as other, served(*arguments, "--replicas", "2") as two:
        for server in (one, other, two):
            asyncio.run(full(server, options.clients, 2))
        for _ in range(options.rounds):
            ones.append(asyncio.run(full(one, options.clients, options.seconds)))
            beside = asyncio.run(both(one, other, options.clients, options.seconds))
            twos.append(asyncio.run(full(two, 2 * options.clients, options.seconds)))
            ratios.append(twos[-1] / (2 * ones[-1]))
            rays.append(twos[-1] / beside)
            print(
                f"one process {ones[-1]:.1f} answers/s: predicted {2 * ones[-1]:.1f}; two side by side {beside:.1f}; "
                f"two replicas {twos[-1]:.1f}: {ratios[-1]:.2f} of the prediction, {rays[-1]:.2f} of side by side",
                flush=True,
            )
        alone = sorted(asyncio.run(arriving(one, 1.0, options.seconds)))
        rate = LOADED * statistics.median(twos)
        waited = sorted(asyncio.run(arriving(two, rate, options.seconds)))
    print(f"medians {statistics.median(ratios):.2f} and {statistics.median(rays):.2f}")
    print(
        f"one request a second at one process: median {statistics.median(alone):.2f} s; {rate:.1f} a second at two "
        f"replicas: median {statistics.median(waited):.2f} s, 19 of 20 within {waited[int(0.95 * len(waited))]:.2f} s"
    )


if __name__ == "__main__":
    main()
