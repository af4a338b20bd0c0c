"""Many clients at once, over HTTP and in process, in turns: `python -m integration_tests.server_load`.

Efforts are mixed; what is compared are tokens a second. Nothing may fail.
"""

import argparse
import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable

import httpx

from integration_tests.served import Served, served
from langchain_saffron import ChatSaffron

DISHES = ("tomato soup", "leek pie", "lemon tart", "mushroom stew", "onion bread")
EFFORTS = ("off", "low", "medium", "high")
LONGEST = 60

Ask = Callable[[int], Awaitable[int]]


async def rate(clients: int, seconds: float, ask: Ask) -> float:
    """Tokens a second of so many clients, each of which asks again as soon as it has its answer."""
    begun = time.perf_counter()

    async def client(number: int) -> int:
        tokens = 0
        while time.perf_counter() - begun < seconds:
            tokens += await ask(number)
            number += clients
        return tokens

    tokens = sum(await asyncio.gather(*map(client, range(clients))))
    return tokens / (time.perf_counter() - begun)


async def over_http(server: Served, clients: int, seconds: float) -> float:
    """By the endpoint."""
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

        async def ask(number: int) -> int:
            body = {"messages": [{"role": "user", "content": question(number)}], "effort": effort(number)}
            answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        return await rate(clients, seconds, ask)


async def in_process(clients: int, seconds: float) -> float:
    """By the class."""
    chat = ChatSaffron(model="kitchen", max_tokens=LONGEST)

    async def ask(number: int) -> int:
        answer = await chat.ainvoke(question(number), effort=effort(number))
        return int(answer.usage_metadata["output_tokens"])

    await ask(0)
    return await rate(clients, seconds, ask)


def question(number: int) -> str:
    """Of one request."""
    return f"How do I make {DISHES[number % len(DISHES)]}?"


def effort(number: int) -> str:
    """Of one request."""
    return EFFORTS[number % len(EFFORTS)]


def main() -> None:
    """Measure, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    ratios = []
    with served("--max-tokens", str(LONGEST)) as server:
        for _ in range(arguments.rounds):
            ours = asyncio.run(over_http(server, arguments.clients, arguments.seconds))
            alone = asyncio.run(in_process(arguments.clients, arguments.seconds))
            ratios.append(ours / alone)
            print(f"over HTTP {ours:.0f} tokens/s, in process {alone:.0f}: {ours / alone:.2f}", flush=True)
        failed = server.metric("request_success", 'finished_reason="error"')
        asked = server.metric("request_success")
    print(f"{asked:.0f} requests over HTTP, {failed:.0f} failed; median ratio {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()
