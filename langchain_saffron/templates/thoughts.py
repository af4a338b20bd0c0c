"""What is known of an answer's thoughts before it begins."""

from dataclasses import dataclass

from langchain_saffron.templates.thought_form import Place
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thought_splitter import ThoughtSplitter


@dataclass(frozen=True)
class Thoughts:
    """How an answer's thoughts are told from what it says.

    Attributes:
        markers: Their markers.
        place: Where the prompt leaves off.
        supposed: Whether the template says nothing of thoughts: they are looked for, but grammars do not wait for any.
    """

    markers: ThoughtMarkers
    place: Place
    supposed: bool = False

    def splitter(self) -> ThoughtSplitter:
        """What takes such an answer apart."""
        return ThoughtSplitter(
            self.markers, self.place == "inside", self.place == "before", self.place in ("before", "behind")
        )
