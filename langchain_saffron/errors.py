"""Every error that the package raises on purpose; all derive from `SaffronError`."""


class SaffronError(Exception):
    """Base class of the errors that langchain-saffron raises on purpose."""


class SettingsError(SaffronError, ValueError):
    """A setting or a combination of settings that cannot work; the message says what to change."""


class PromptError(SaffronError, ValueError):
    """Messages that cannot be turned into a prompt for this model."""


class ContextOverflowError(SaffronError, ValueError):
    """A prompt that leaves no room for an answer in the model's context."""


class ModelLoadError(SaffronError, ValueError):
    """A model, tokenizer or reward model that cannot be loaded or does not fit."""


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


class CacheFullError(SaffronError, RuntimeError):
    """The KV cache has no free slot left for a request."""


class ModelMemoryError(SaffronError, MemoryError):
    """A model, or a forward of it, did not fit into memory; the message says what to lower."""


class NumericalError(SaffronError, ArithmeticError):
    """A model returned NaN; the message names the model."""


class EngineClosedError(SaffronError, RuntimeError):
    """The engine was closed before or while the request ran."""


class EngineFailedError(SaffronError, RuntimeError):
    """Something failed inside the engine that nobody expected; the cause is attached. The next call works again."""


class ReentrantCallError(SaffronError, RuntimeError):
    """A call from the engine's own thread, within `engine.call`, that would wait for itself."""


class RequestTimeoutError(SaffronError, TimeoutError):
    """A request outlived its `timeout=`."""


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
