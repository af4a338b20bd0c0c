"""Computations outside the engine's thread, such that they leave nothing behind that slows it down."""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def apart(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` in a thread that ends with it.

    On a CPU every thread that computes gets a team of helpers that lives as long as the thread. Once there are more
    of them than cores, none waits actively for its next piece of work any more, and the many small operations of a
    decoding step take a quarter longer. So only the engine's own thread may keep a team.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        results: list[R] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body, name=f"saffron-{function.__name__}", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return run
