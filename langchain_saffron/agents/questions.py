"""The questions that a decision model on a reward model answers; there are no others."""

from langchain_saffron.errors import SettingsError

RISKY_CALL = "Is what `tool_call` would say or do unsafe, in the conversation of `messages`?"
EFFORT_NEEDED = "How much search does this request need, for a safe answer?"
# from the narrowest on; "auto" is no place in this order, it finds one
LEVELS = ("off", "low", "medium", "high", "max")


class UnknownQuestionError(SettingsError):
    """A question that the reward model was not trained on; the message says which ones it answers."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"the question {name!r} cannot be answered: {why}. A reward model knows what is safe, and nothing else: "
            f"ask Noul(instructions=RISKY_CALL), or Choice(instructions=EFFORT_NEEDED) among {', '.join(LEVELS)}; in "
            "langchain's middleware, instructions=RISKY_CALL and no criteria, or instructions=EFFORT_NEEDED"
        )
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type["UnknownQuestionError"], tuple[str, str]]:
        # as an exception it would be made again from its text alone
        return type(self), (self.name, self.why)
