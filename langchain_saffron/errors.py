"""Every error that the package raises on purpose; all derive from `SaffronError`.

Where langchain-core has a class for the same failure of a model, ours is one of that as well, so that retries,
fallbacks and the middleware of agents know what to do with it. langchain-core before 1.6 knows few of these classes,
and the engine works without it: then the nearest base takes their place, and `is_retryable` says the same.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_core.exceptions import ContextOverflowError as _TooLong
    from langchain_core.exceptions import ModelAPIError as _Failed
    from langchain_core.exceptions import ModelError as _ModelError
    from langchain_core.exceptions import ModelInvalidRequestError as _Invalid
    from langchain_core.exceptions import ModelNotFoundError as _NotFound
    from langchain_core.exceptions import ModelRateLimitError as _Busy
    from langchain_core.exceptions import ModelTimeoutError as _TimedOut
else:
    try:
        from langchain_core import exceptions as _core
    except ImportError:
        _core = None

    class _ModelErrorHere(Exception):
        is_retryable = False

    _ModelError = getattr(_core, "ModelError", _ModelErrorHere)
    _TooLong, _Failed, _Invalid, _NotFound, _Busy, _TimedOut = (
        getattr(_core, name, _ModelError)
        for name in (
            "ContextOverflowError",
            "ModelAPIError",
            "ModelInvalidRequestError",
            "ModelNotFoundError",
            "ModelRateLimitError",
            "ModelTimeoutError",
        )
    )


class SaffronError(_ModelError):
    """Base class of the errors that langchain-saffron raises on purpose.

    Attributes:
        is_retryable: Whether the same call may succeed when it is made again.
    """


class SettingsError(SaffronError, _Invalid, ValueError):
    """A setting or a combination of settings that cannot work; the message says what to change."""


class PromptError(SaffronError, _Invalid, ValueError):
    """Messages that cannot be turned into a prompt for this model."""


class ContextOverflowError(SaffronError, _TooLong, ValueError):
    """A prompt that leaves no room for an answer in the model's context."""


class ModelLoadError(SaffronError, ValueError):
    """A model, tokenizer or reward model that cannot be loaded or does not fit."""


class ModelNotFoundError(ModelLoadError, _NotFound):
    """A model that is neither a directory or file here nor on the hub, or that the hub did not hand out."""


class VocabularyMismatchError(ModelLoadError):
    """Policy and reward model do not share their ordinary tokens."""


class UnsupportedModelError(ModelLoadError):
    """A model architecture that cannot share a trie of prefixes."""


class RewardModelRequiredError(SettingsError):
    """A search that needs a reward model was asked for without one."""


class GrammarError(SettingsError):
    """A grammar that cannot be compiled for this model, or that became too complex while an answer was written."""


class ExtraRequiredError(SettingsError, ImportError):
    """Something was asked for that needs packages of an extra; the message says how to install them."""


class BudgetError(SettingsError):
    """A compute budget that does not even cover the prompt."""


class CacheFullError(ContextOverflowError, RuntimeError):
    """The KV cache has no free slot left for a request, even where it is alone."""


class ModelMemoryError(SaffronError, MemoryError):
    """A model, or a forward of it, did not fit into memory; the message says what to lower."""


class NumericalError(SaffronError, ArithmeticError):
    """A model returned NaN or infinity; the message names the model."""

    @classmethod
    def of_scores(cls, model: str) -> "NumericalError":
        """The error of a model, by what messages call it, whose scores are no numbers."""
        return cls(
            f"the {model} returned NaN or infinity: its weights may be damaged, or its dtype too narrow (try "
            "dtype='float32')"
        )


class GuardFailedError(SaffronError, RuntimeError):
    """A guard, such as one behind an endpoint, gave no usable reward however often it was asked."""


class EngineBusyError(SaffronError, _Busy, RuntimeError):
    """As many requests as the engine takes wait already: ask again later, or allow a longer queue."""

    is_retryable = True


class EngineClosedError(SaffronError, RuntimeError):
    """The engine was closed before or while the request ran."""


class EngineFailedError(SaffronError, _Failed, RuntimeError):
    """Something failed inside the engine that nobody expected; the cause is attached. The next call works again."""

    is_retryable = True


class ReentrantCallError(SaffronError, RuntimeError):
    """A call from the engine's own thread, within `engine.call`, that would wait for itself."""


class RequestTimeoutError(SaffronError, _TimedOut, TimeoutError):
    """A request outlived its `timeout=`."""

    is_retryable = True


class RequestCancelledError(SaffronError, RuntimeError):
    """The request was cancelled before it had an answer."""


class CorpusError(SaffronError, ValueError):
    """A corpus or annotated data that cannot be used: empty, of no known shape, or made for another tokenizer."""


class TrainingError(SaffronError, ValueError):
    """A training run that cannot start or go on: settings, checkpoints or an output directory in the way."""


class WeakRewardModelError(TrainingError):
    """A trained reward model that is written but not likely to work, where `strict` asks for one that is."""


class StorageError(SaffronError, OSError):
    """Something could not be written, such as to a full disk; what was there before is still whole."""
