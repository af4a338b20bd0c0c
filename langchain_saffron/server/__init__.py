"""An OpenAI-compatible endpoint around one engine: `create_app` for any ASGI server; `saffron serve` has its own."""

from typing import TYPE_CHECKING, Any

from langchain_saffron.server.settings import ServerSettings

if TYPE_CHECKING:
    from langchain_saffron.server.app import create_app

__all__ = ["ServerSettings", "create_app"]


def __getattr__(name: str) -> Any:
    # settings should not wait for FastAPI
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langchain_saffron.extras import SERVER

    SERVER.require()
    from langchain_saffron.server.app import create_app

    return create_app
