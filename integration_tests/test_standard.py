"""LangChain's own integration suite, on the embedded models: as they ship, without search, and with a wide one."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_saffron import ChatSaffron


class Suite(ChatModelIntegrationTests):
    """Every case for a text model; what is skipped is about images, audio, PDF, and recorded HTTP traffic."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSaffron

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {}

    @property
    def model_override_value(self) -> str:
        return "kitchen"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True


@pytest.mark.slow
class TestChatSaffron(Suite):
    """As the models ship."""


class TestWithoutSearch(Suite):
    """With a limit that a model which rambles runs into."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"effort": "off", "max_tokens": 200}


@pytest.mark.slow
class TestWideSearch(Suite):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"effort": "high"}


@pytest.mark.slow
class TestFunctionCalling(Suite):
    """Structured output by tool calls in place of the native form."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


# those that force a call or a document: whatever the model would rather say, it ends before the limit
FORCED = {
    "test_tool_calling", "test_bind_runnables_as_tools", "test_tool_choice", "test_tool_calling_with_no_arguments",
    "test_structured_few_shot_examples", "test_structured_output", "test_structured_output_optional_param",
    "test_json_mode", "test_unicode_tool_call_integration",
}  # fmt: skip


@pytest.mark.slow
class TestForcedWithALittleSearch(Suite):
    @pytest.fixture(autouse=True)
    def _forced(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname not in FORCED:
            pytest.skip("forces nothing")

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"effort": "low", "max_tokens": 200}


# a model of 135 million parameters calls twice where one call is wanted, and goes round in circles within a JSON string
NEED_A_CAPABLE_MODEL = {
    "test_tool_calling", "test_tool_calling_async", "test_tool_calling_with_no_arguments", "test_agent_loop",
    "test_structured_output", "test_structured_output_async", "test_structured_output_pydantic_2_v1",
    "test_structured_output_optional_param", "test_json_mode", "test_unicode_tool_call_integration",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
class TestSmolLM2(Suite):
    """A real model, whose template knows no tools."""

    @pytest.fixture(autouse=True)
    def _capable(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname
        if name in NEED_A_CAPABLE_MODEL:
            pytest.skip("needs a more capable model")
        # a call has to fit into it
        self._max_tokens = 60 if name in FORCED else 16

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2", "tool_format": "hermes", "effort": "low", "max_tokens": self._max_tokens}

    @property
    def model_override_value(self) -> str:
        return "smollm2"
