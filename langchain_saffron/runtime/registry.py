"""Things by name that a user's code can add to."""

from collections.abc import Mapping
from typing import TypeVar

from langchain_saffron.errors import SettingsError

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict whose lookups fail with an error that says what there is.

    Attributes:
        what: What its things are called in errors, such as `"method"`.
    """

    def __init__(self, what: str, known: Mapping[str, T]) -> None:
        """Begin with what this package brings."""
        super().__init__(known)
        self.what = what

    def __missing__(self, name: str) -> T:
        """Refuse a name that nobody has registered.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(f"{self.what}: {name!r} is not known; there are {', '.join(self)}")
