"""Event streams whose host ends them."""

import pytest
from schemathesis.python.asgi import ASGIClient

from langchain_saffron import ChatSaffron
from langchain_saffron.server import ServerSettings, create_app


@pytest.mark.parametrize("events", [2, 5])
def test_a_host_that_cancels_a_stream_gets_its_own_cancellation_back(events):
    """A cancel scope knows only what it cancelled itself; anything else would end the host's task.

    The client cancels the application after so many events.
    """
    app = create_app(ChatSaffron(model="kitchen", effort="low", max_tokens=3), ServerSettings())
    client = ASGIClient(app, max_stream_events=events)
    body = {"prompt": ["rice", "soup", "salt"], "stream": True}
    for _ in range(3):
        response = client.request("POST", "http://localhost/v1/completions", json=body, timeout=60)
        assert response.status_code == 200
        assert response.text.count("data: ") == events
