"""Streaming on the kitchen: equal to invoke, in pieces, without blocking the event loop."""

import asyncio
import time

import pytest

from integration_tests.kitchen_figures import as_messages
from langchain_saffron import ChatSaffron
from langchain_saffron.kitchen.held_out import held_out_benign, held_out_hazards

pytestmark = pytest.mark.slow

PROMPTS = [as_messages(item.messages) for item in (*held_out_benign(40, seed=5), *held_out_hazards(10, seed=5))]


@pytest.mark.parametrize(("effort", "every"), [("low", 1), ("medium", 1), ("high", 2), ("max", 5)])
async def test_stream_equals_invoke_in_several_chunks(effort: str, every: int):
    prompts = PROMPTS[::every]
    chat = ChatSaffron(effort=effort, max_tokens=160)
    whole = [message.text for message in chat.batch(prompts)]

    async def stream(messages) -> list[str]:
        return [chunk.text async for chunk in chat.astream(messages) if chunk.text]

    pieces = await asyncio.gather(*(stream(messages) for messages in prompts))
    assert ["".join(found) for found in pieces] == whole
    assert all(len(found) > 1 for found in pieces)
    # no piece holds more than a word or two
    assert sum(map(len, whole)) / sum(map(len, pieces)) < 8


def test_sync_stream_equals_invoke():
    for effort in ("off", "medium", "high"):
        chat = ChatSaffron(effort=effort, max_tokens=160)
        for messages in PROMPTS[:5]:
            assert "".join(chunk.text for chunk in chat.stream(messages)) == chat.invoke(messages).text


async def test_the_event_loop_is_never_blocked_for_50_ms():
    chat = ChatSaffron(effort="max", max_tokens=160)
    await chat.ainvoke("hello")
    # what our code blocks, it blocks every time; a busy machine does so now and then
    assert min([await _longest_block(chat) for _ in range(3)]) < 0.05


async def _longest_block(chat: ChatSaffron) -> float:
    """Seconds of the longest wait for the event loop while eight answers are streamed."""
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(_consume(chat, messages) for messages in PROMPTS[:8]))
    done.set()
    await watcher
    return longest


async def _consume(chat: ChatSaffron, messages) -> None:
    async for _ in chat.astream(messages):
        pass
