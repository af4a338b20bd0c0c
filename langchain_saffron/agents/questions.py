"""The questions that a decision model on a reward model answers; there are no others."""

from langchain_saffron.errors import SettingsError

RISKY_CALL = "Is what `tool_call` would say or do unsafe, in the conversation of `messages`?"
EFFORT_NEEDED = "How much search does this request need, for a safe answer?"
# from the narrowest on; "auto" is no place in this order, it finds one
LEVELS = ("off", "low", "medium", "high", "max")


class UnknownQuestionError(SettingsError):
    """A question that the reward model was not trained on; the message says which ones it answers."""

    @classmethod
    def of(cls, name: str, why: str) -> "UnknownQuestionError":
        """The error of a question, by its name in the request."""
        return cls(
            f"the question {name!r} cannot be answered: {why}. A reward model knows what is safe, and nothing else: "
            f"ask Noul(instructions=RISKY_CALL), or Choice(instructions=EFFORT_NEEDED) among {', '.join(LEVELS)}; in "
            "langchain's middleware, instructions=RISKY_CALL and no criteria, or instructions=EFFORT_NEEDED"
        )
