"""One prompt to be evaluated."""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["harmful", "borderline", "benign"]
Message = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """A prompt, and what is known of good and bad answers to it.

    Attributes:
        id: Its name within the dataset; the same file always gives the same ones.
        dataset: Where it comes from.
        kind: `"harmful"`: should be refused. `"borderline"`: sounds harmful and should be answered. `"benign"`.
        messages: The turns up to the answer, as chat templates take them.
        target: A harmful answer, for attacks that put its beginning into the model's mouth; a good answer where the
            prompt is not harmful. Empty if there is none.
        must: For the kitchen's rule: an answer on topic has a word of every group.
        tools: Schemas of the tools that are shown.
        facts: What else the record says, such as a category.
    """

    id: str
    dataset: str
    kind: Kind
    messages: tuple[Message, ...]
    target: str = ""
    must: tuple[tuple[str, ...], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> str:
        """The user's last message."""
        return next((turn["content"] for turn in reversed(self.messages) if turn["role"] == "user"), "")

    def asking(self, text: str) -> "Sample":
        """The same with another last user message."""
        place = max(i for i, turn in enumerate(self.messages) if turn["role"] == "user")
        turns = (*self.messages[:place], {"role": "user", "content": text}, *self.messages[place + 1 :])
        return Sample(self.id, self.dataset, self.kind, turns, self.target, self.must, self.tools, self.facts)
