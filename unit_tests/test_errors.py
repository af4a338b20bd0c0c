"""What kind of error each of ours is: for `except` clauses, for langchain-core, for pickles."""

import copy
import pickle
import subprocess
import sys
import textwrap

import pytest
from langchain_core import exceptions as core

from langchain_saffron import errors
from langchain_saffron.agents.questions import UnknownQuestionError
from langchain_saffron.agents.scoring import ToolCallBlockedError

CORE = {
    errors.SettingsError: core.ModelInvalidRequestError,
    errors.PromptError: core.ModelInvalidRequestError,
    errors.GrammarError: core.ModelInvalidRequestError,
    UnknownQuestionError: core.ModelInvalidRequestError,
    errors.BudgetError: core.ModelInvalidRequestError,
    errors.RewardModelRequiredError: core.ModelInvalidRequestError,
    errors.ExtraRequiredError: core.ModelInvalidRequestError,
    errors.ContextOverflowError: core.ContextOverflowError,
    errors.CacheFullError: core.ContextOverflowError,
    errors.ModelNotFoundError: core.ModelNotFoundError,
    errors.RequestTimeoutError: core.ModelTimeoutError,
    errors.EngineBusyError: core.ModelRateLimitError,
    errors.EngineFailedError: core.ModelAPIError,
}
PASSING = {errors.RequestTimeoutError, errors.EngineBusyError, errors.EngineFailedError}
BUILTIN = {
    errors.SettingsError: ValueError,
    errors.PromptError: ValueError,
    errors.ContextOverflowError: ValueError,
    errors.ModelLoadError: ValueError,
    errors.ModelNotFoundError: ValueError,
    errors.ExtraRequiredError: ImportError,
    errors.CacheFullError: RuntimeError,
    errors.ModelMemoryError: MemoryError,
    errors.NumericalError: ArithmeticError,
    errors.EngineBusyError: RuntimeError,
    errors.EngineClosedError: RuntimeError,
    errors.EngineFailedError: RuntimeError,
    errors.RequestTimeoutError: TimeoutError,
    errors.StorageError: OSError,
}


def all_of(kind: type[errors.SaffronError]) -> set[type[errors.SaffronError]]:
    return {kind}.union(*(all_of(one) for one in kind.__subclasses__()))


ALL = sorted(all_of(errors.SaffronError) - {ToolCallBlockedError}, key=lambda kind: kind.__name__)


def test_each_is_what_langchain_calls_it():
    for kind, of_core in CORE.items():
        assert issubclass(kind, of_core)
    for kind in ALL:
        assert issubclass(kind, core.ModelError)
        # and nothing else that a handler would take it for
        families = {one for one in kind.__mro__ if one.__module__ == core.__name__}
        assert families <= {CORE.get(kind, core.ModelError), core.ModelError, core.LangChainException}


@pytest.mark.parametrize("kind", ALL)
def test_only_what_may_pass_is_worth_another_try(kind: type[errors.SaffronError]):
    assert kind.is_retryable == (kind in PASSING)


@pytest.mark.parametrize("kind", BUILTIN)
def test_python_knows_them_too(kind: type[errors.SaffronError]):
    with pytest.raises(BUILTIN[kind]):
        raise kind("what to do")


@pytest.mark.parametrize("kind", ALL)
def test_texts_and_copies(kind: type[errors.SaffronError]):
    error = kind("a width of 0: use 1 or more")
    assert str(error) == "a width of 0: use 1 or more"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again)) == (kind, str(error))


def test_a_blocked_call_can_be_pickled():
    error = ToolCallBlockedError({"name": "add_note", "args": {"text": "x"}, "id": "a"}, -1.5, 0.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.tool_call, again.score, again.threshold) == (str(error), error.tool_call, -1.5, 0.0)


def run(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("gone", [
    ["ModelRefusalError"],
    [name for name in vars(core) if name.startswith("Model")],
    [name for name in vars(core) if name.startswith(("Model", "ContextOverflow"))],
], ids=["before 1.7.5", "before 1.6", "even older"])  # fmt: skip
def test_older_cores_lack_some_of_the_classes(gone: list[str]):
    run(f"""
        from langchain_core import exceptions
        for name in {gone}:
            delattr(exceptions, name)
        from langchain_saffron import errors
        assert errors.RequestTimeoutError.is_retryable and errors.EngineBusyError.is_retryable
        assert not errors.SettingsError.is_retryable and not errors.ContextOverflowError.is_retryable
        for name in ("ContextOverflowError", "ModelTimeoutError"):
            kind = getattr(exceptions, name, errors.SaffronError)
            ours = errors.ContextOverflowError if name == "ContextOverflowError" else errors.RequestTimeoutError
            assert issubclass(ours, kind)
        assert str(errors.BudgetError("a b")) == "a b"
    """)


@pytest.mark.slow
def test_the_engine_works_without_langchain():
    said = run("""
        import sys
        sys.modules["langchain_core"] = None
        from langchain_saffron import SearchSettings, SaffronEngine
        from langchain_saffron.errors import SaffronError, SettingsError
        engine = SaffronEngine.from_pretrained()
        ids = engine.tokenizer.encode("Hello!")
        assert engine.generate(ids, settings=SearchSettings(max_tokens=3)).token_ids
        try:
            SearchSettings(width=0)
        except SettingsError as error:
            assert isinstance(error, SaffronError) and not error.is_retryable
            print(error)
    """)
    assert "width" in said


def test_errors_are_cheap_to_import():
    said = run("""
        import sys
        import langchain_saffron
        assert "langchain_core" not in sys.modules and "pydantic" not in sys.modules
        from langchain_saffron import errors
        print([name for name in sys.modules if name in ("torch", "transformers", "langchain_core.messages")])
    """)
    assert said.strip() == "[]"
