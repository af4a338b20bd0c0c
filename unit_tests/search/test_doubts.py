"""How much of what a text was overruled by counts against others, and what it costs to know."""

import random
from collections.abc import Iterator

from langchain_saffron.search.doubts import Doubts


def test_a_text_is_doubted_by_as_much_as_it_shares_of_what_had_not_stood():
    doubts = Doubts()
    assert not doubts
    doubts.add((0, 1, 2, 3, 0, 1), since=2, error=8.0)
    assert doubts
    texts = ((1, 1), (0, 1, 3), (0, 1, 2, 0), (0, 1, 2, 3, 0, 2), (0, 1, 2, 3, 0, 1), (0, 1, 2, 3, 0, 1, 4))
    assert [doubts.of(text) for text in texts] == [0.0, 0.0, 2.0, 6.0, 8.0, 8.0]


def test_of_many_texts_the_one_that_doubts_it_most_counts():
    rng = random.Random(5)

    def text() -> tuple[int, ...]:
        return tuple(rng.randrange(3) for _ in range(rng.randint(1, 9)))

    def share(overruled: tuple[int, ...], since: int, error: float, tokens: tuple[int, ...]) -> float:
        shared = next((i for i in range(len(tokens)) if overruled[i : i + 1] != tokens[i : i + 1]), len(tokens))
        return error * max(0, shared - since) / (len(overruled) - since)

    for _ in range(30):
        doubts, known = Doubts(), []
        for _ in range(25):
            overruled = text()
            known.append((overruled, rng.randrange(len(overruled)), rng.uniform(0.01, 9)))
            doubts.add(*known[-1])
            for tokens in (text(), text()):
                assert doubts.of(tokens) == max(share(*one, tokens) for one in known)


class Read(tuple[int, ...]):
    """Counts how many of its tokens are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        for token in super().__iter__():
            Read.looks += 1
            yield token


def test_what_it_costs_does_not_grow_with_how_many_texts_there_are():
    doubts, text = Doubts(), Read(range(20))
    for i in range(500):
        doubts.add((*range(i % 20), 100 + i), 0, 1.0)
    assert doubts.of(text) == 19 / 20
    assert Read.looks <= 20
