"""What an operator sets of the server."""

from dataclasses import dataclass, field
from pathlib import Path

from langchain_saffron.errors import SettingsError
from langchain_saffron.server.rules import Rules

MEBIBYTE = 2**20


@dataclass(frozen=True)
class ServerSettings:
    """How the server serves; the model and its defaults are the chat model's.

    Attributes:
        api_keys: Keys that are let in, each its own tenant, or `"tenant:key"` where several share one. Without any,
            everybody is let in.
        served_name: What the model is called; `None` takes its own name.
        max_running: Requests that search at a time.
        max_queue: Requests that may wait besides; one more gets a 503.
        max_body: Bytes of a request's body; more gets a 413.
        max_model_len: Tokens of prompt and answer, where the model takes more.
        rate_limit: Requests a minute and key; more get a 429. `None` for any number.
        shutdown_timeout: Seconds that running answers get to end in when the server is told to stop.
        ping_seconds: After so long without an event, a stream gets a comment, so that proxies keep it open.
        log_prompts: Whether the logs show what was asked and answered.
        rules: What requests may have, by route, tenant and tool.
        audit_log: A file for a line about every answer in which the decoding stepped in.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    served_name: str | None = None
    max_running: int = 64
    max_queue: int = 256
    max_body: int = 4 * MEBIBYTE
    max_model_len: int | None = None
    rate_limit: int | None = None
    shutdown_timeout: float = 30.0
    ping_seconds: float = 30.0
    log_prompts: bool = False
    rules: Rules = field(default_factory=Rules)
    audit_log: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_running", 1), ("max_queue", 0), ("max_body", 1), ("shutdown_timeout", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}: at least {least} is needed, not {getattr(self, name)}")
        if self.rate_limit is not None and self.rate_limit < 1:
            raise SettingsError(f"rate_limit: at least 1 is needed, not {self.rate_limit}")
