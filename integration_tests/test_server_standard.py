"""LangChain's own integration suite through `ChatOpenAI` and `saffron serve`: what the class passes itself."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

from integration_tests.served import served
from integration_tests.test_standard import Suite

# the class itself is held to the suite in every run; what the wire adds has its own tests beside
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "SAFFRON_SERVER_SUITE" not in os.environ, reason="SAFFRON_SERVER_SUITE is not set: takes a minute"
    ),
]


class TestChatOpenAI(Suite):
    """The kitchen behind the endpoint."""

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _server(request: pytest.FixtureRequest) -> Iterator[None]:
        with served("--effort", "low") as server:
            request.cls.url = f"{server.url}/v1"
            yield
            assert not server.metric("request_success", 'finished_reason="error"')

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # it shares its connections, which belong to an event loop, and each test has one of its own
        headers = {"Connection": "close"}
        place = {"base_url": self.url, "api_key": "sk-suite", "default_headers": headers}
        # which it asks OpenAI itself for, others only where it is told to
        return {"model": "kitchen", "stream_usage": True, **place}
