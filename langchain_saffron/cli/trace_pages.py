"""The page that `saffron chat --trace` writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from langchain_saffron.cli.console import notice

if TYPE_CHECKING:
    from langchain_saffron.chat_models import ChatSaffron


class TracePages:
    """A file that holds the search of the latest answer."""

    def __init__(self, path: Path) -> None:
        """Look whether it can be written, before anything long begins.

        Args:
            path: Of the file, which need not be there.

        Raises:
            BadParameter: It cannot be written.
        """
        self._path = path
        try:
            # as it is until there is something to write
            with path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise typer.BadParameter(f"--trace: {path} cannot be written: {error.strerror}") from error

    @contextmanager
    def recording(self, chat: "ChatSaffron") -> Iterator[None]:
        """Write the search of what is answered within, if it comes to its end.

        Args:
            chat: Who answers.
        """
        from langchain_saffron.explain import record_traces, trace_page

        with record_traces() as results:
            yield
        if not results or results[-1].trace is None:
            notice("no trace: plain decoding does not search")
            return
        self._path.write_text(trace_page(results[-1], chat.load().tokenizer), encoding="utf-8")
        notice(f"trace: {self._path}")
