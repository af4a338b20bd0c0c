"""The `saffron` command: a file a subcommand; what they share is in `options`, `console`, `progress` and `session`."""

from langchain_saffron.cli.app import main

__all__ = ["main"]
