import pytest
from starlette.testclient import TestClient

from langchain_saffron import ChatSaffron
from langchain_saffron.server import ServerSettings, create_app


@pytest.fixture
def client_of():
    """Clients of an endpoint around the kitchen; the engine is that of all other tests."""

    def make(chat: ChatSaffron | None = None, **settings) -> TestClient:
        chat = chat or ChatSaffron(model="kitchen", effort="low", max_tokens=40)
        return TestClient(create_app(chat, ServerSettings(**settings)), raise_server_exceptions=False)

    return make


@pytest.fixture
def client(client_of):
    return client_of()
