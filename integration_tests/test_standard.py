"""LangChain's own integration suite, on the embedded models; its cases for tools come with tools."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_saffron import ChatSaffron
from langchain_saffron.models.loading import KITCHEN


class TestChatSaffron(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSaffron

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 60, "reward_model": str(KITCHEN / "mrm")}

    @property
    def model_override_value(self) -> str:
        return str(KITCHEN / "policy")

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False
