"""A real `saffron serve` process on a free port, with the kitchen."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class Served:
    """The process, and where it listens.

    Attributes:
        process: The process.
        url: Without a path.
    """

    def __init__(self, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        code = "import sys; from langchain_saffron.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--port", "0", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._lines: list[str] = []
        self._ready = threading.Event()
        self.url = ""
        threading.Thread(target=self._read, daemon=True).start()
        self._ready.wait(120)
        assert self.url, self.log

    @property
    def log(self) -> str:
        """What it has said so far."""
        return "".join(self._lines)

    def stop(self) -> int:
        """One signal; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def metric(self, name: str, labels: str = "") -> float:
        """One of its metrics, summed over what the labels leave open; 0 where there is none."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.findall(rf"^saffron:{name}(?:_total)?{{[^}}]*{re.escape(labels)}[^}}]*}} (\S+)$", text, re.M)
        return sum(map(float, found))

    def wait_for(self, name: str, value: float, seconds: float = 10) -> None:
        """Until a metric has a value."""
        end = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}\n{self.log}"
            time.sleep(0.02)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()


@contextmanager
def served(*arguments: str, **variables: str) -> Iterator[Served]:
    """A server for a while.

    Args:
        *arguments: Of `saffron serve`.
        **variables: Of its environment.
    """
    server = Served(arguments, variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(30)
