"""What an answer depends on: what LangChain's caches tell calls apart by, and what traces show."""

from pathlib import Path
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from pydantic import BaseModel

from langchain_saffron.interface.response_format import read_response_format
from langchain_saffron.models.fingerprint import fingerprint

# fields that no answer depends on; a secret has no place in a key
_NO_PART = ("timeout", "max_retries", "streaming", "hf_token")
# a field of LangChain's own that changes what a message holds
_FOREIGN_PART = ("output_version",)


def identity_of(model: Any) -> dict[str, Any]:
    """Everything that a model's answers depend on, as plain values.

    Args:
        model: A `SaffronFields`: the chat model or LLM, with a call's options.

    Returns:
        The fields by name; directories with a stamp of what is in them, loaded objects as fingerprints. What a field of
        a subclass says counts as well.
    """
    skipped = {*_langchain_fields(type(model)), *_NO_PART}
    values = {name: getattr(model, name) for name in type(model).model_fields if name not in skipped}
    values |= {name: value for name, value in model.sources().items() if name in values} if model.engine is None else {}
    if form := read_response_format(model.response_format):
        values["response_format"] = [form.grammar.kind, form.grammar.source, form.schema]
    settings = model.search_settings()
    values |= {"commit_lag": settings.commit_lag, "step_back": settings.step_back}
    if model.shared_budget is not None:
        # what is left of it decides
        values["shared_budget"] = fingerprint(model.shared_budget)
    weights = _is_cached(model)
    shown = {name: _plain(value, weights) for name, value in values.items()}
    # LangChain writes a call's stop strings over the field's
    return {"model_name": model.model_name, **shown, "stop_strings": shown["stop"]}


def _is_cached(model: Any) -> bool:
    """Whether answers of this model are, or may be, kept in a cache of LangChain's."""
    return isinstance(model.cache, BaseCache) or (model.cache is not False and get_llm_cache() is not None)


def _langchain_fields(kind: type[BaseModel]) -> set[str]:
    """The fields of LangChain's own classes, which the call of an engine never sees."""
    theirs = [base for base in kind.__mro__ if base.__module__.startswith("langchain_core.")]
    found = {name for base in theirs if issubclass(base, BaseModel) for name in base.model_fields}
    return found - set(_FOREIGN_PART)


def _plain(value: Any, weights: bool) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, weights) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, weights) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else fingerprint(value, weights)
