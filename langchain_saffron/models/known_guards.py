"""Guards that are known, the vocabularies of model families, and which of them a policy shares.

Where a guard's tokenizer is on this machine, it is compared token by token. Else a vocabulary is told by the ids of a
few tokens in the policy's own tokenizer, and, where that is not here either, by the policy's name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from langchain_saffron.embedded import WORLDS, named_part
from langchain_saffron.errors import ModelNotFoundError, SaffronError, VocabularyMismatchError
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.models.source import find_gguf
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.runtime.files import local_path

# how it is known whether two models share a vocabulary
Evidence = Literal["compared", "tokens", "name"]


@dataclass(frozen=True)
class Vocabulary:
    """A family's vocabulary.

    Attributes:
        name: What it is called here.
        models: Matches the names of models that have it.
        tokens: Ids of tokens that tell it from others; empty where only the name does.
    """

    name: str
    models: re.Pattern[str]
    tokens: dict[str, int]


@dataclass(frozen=True)
class KnownGuard:
    """A guard.

    Attributes:
        id: On the hub, or the name of an embedded world.
        vocabulary: The name of its vocabulary.
        endpoint: Whether it cannot be loaded here, but asked behind an endpoint.
        labels_tokens: Whether it says of every token how risky the answer is, and is asked no question.
    """

    id: str
    vocabulary: str
    endpoint: bool = False
    labels_tokens: bool = False


@dataclass(frozen=True)
class Match:
    """What a guard is to a policy.

    Attributes:
        guard: The guard.
        shared: Whether both have the same vocabulary; `None` where that is not known.
        evidence: How that is known.
        command: What makes an MRM of it.
    """

    guard: KnownGuard
    shared: bool | None
    evidence: Evidence | None
    command: str


def _vocabulary(name: str, models: str, **tokens: int) -> Vocabulary:
    return Vocabulary(name, re.compile(models, re.IGNORECASE), {key.replace("_", "▁"): i for key, i in tokens.items()})


VOCABULARIES = (
    _vocabulary("kitchen", r"^kitchen$"),
    _vocabulary("SmolLM2", r"smollm-?2"),
    _vocabulary("Llama 3", r"llama-?(guard-)?3|hermes-3|deepseek-r1-distill-llama", Hello=9906),
    _vocabulary("Llama 4", r"llama-?(guard-)?4"),
    _vocabulary("Qwen 2 and 3", r"qwen-?(2|2\.5|3)(guard)?(?![.\d])|qwq|deepseek-r1-distill-qwen", Hello=9707),
    _vocabulary("Gemma 1 and 2", r"(?<!shield)gemma-?(2|1\.1)?-\d+b|shieldgemma-(2|9|27)b", Hello=4521),
    _vocabulary("Gemma 3", r"gemma-?3|shieldgemma-2-4b", Hello=9259),
    _vocabulary("Granite 3", r"granite-(guardian-)?3"),
    _vocabulary("Mistral v1", r"mistral-7b-(instruct-)?v0\.[12]", _Hello=22557),
    _vocabulary("Mistral v3", r"mistral-7b-(instruct-)?v0\.3|wildguard", _Hello=23325),
    _vocabulary("GPT-2", r"(^|/)(distil)?gpt-?2", Hello=15496),
)

GUARDS = (
    KnownGuard("kitchen", "kitchen"),
    KnownGuard("smollm2", "SmolLM2"),
    KnownGuard("meta-llama/Llama-Guard-3-1B", "Llama 3"),
    KnownGuard("meta-llama/Llama-Guard-3-8B", "Llama 3"),
    KnownGuard("meta-llama/Llama-Guard-4-12B", "Llama 4", endpoint=True),
    KnownGuard("Qwen/Qwen3Guard-Gen-0.6B", "Qwen 2 and 3"),
    KnownGuard("Qwen/Qwen3Guard-Gen-4B", "Qwen 2 and 3"),
    KnownGuard("Qwen/Qwen3Guard-Stream-0.6B", "Qwen 2 and 3", labels_tokens=True),
    KnownGuard("Qwen/Qwen3Guard-Stream-4B", "Qwen 2 and 3", labels_tokens=True),
    KnownGuard("google/shieldgemma-2b", "Gemma 1 and 2"),
    KnownGuard("google/shieldgemma-9b", "Gemma 1 and 2"),
    KnownGuard("ibm-granite/granite-guardian-3.2-5b", "Granite 3"),
    KnownGuard("allenai/wildguard", "Mistral v3"),
)


def matching_guards(policy: str) -> tuple[str | None, list[Match]]:
    """Which known guards share a policy's vocabulary.

    Args:
        policy: A hub id, a directory or a GGUF file. Nothing is downloaded for it.

    Returns:
        The name of its vocabulary, if that is known, and every guard, those that share it first.

    Raises:
        ModelNotFoundError: It names a path where nothing is.
        ModelLoadError: It is here, but has no tokenizer that can be read.
    """
    tokenizer = _local_tokenizer(named_part(policy, "policy"))
    family, evidence = _family(policy, tokenizer)
    matches = [_match(policy, guard, tokenizer, family, evidence) for guard in GUARDS]
    return family, sorted(matches, key=lambda match: (not match.shared, match.shared is None))


def _match(policy: str, guard: KnownGuard, tokenizer: Any, family: str | None, evidence: Evidence | None) -> Match:
    shared = None if family is None else family == guard.vocabulary
    if tokenizer is not None and (own := _guard_tokenizer(guard)) is not None:
        evidence = "compared"
        try:
            check_vocabularies(tokenizer, own)
            shared = True
        except VocabularyMismatchError:
            shared = False
    named = f"http://localhost:8000/v1 --guard-model {guard.id}" if guard.endpoint else guard.id
    command = f"saffron fit {policy} --guard {named} --prompts prompts.txt --out mrm"
    return Match(guard, shared, None if shared is None else evidence, command)


def _family(policy: str, tokenizer: Any) -> tuple[str | None, Evidence | None]:
    if tokenizer is not None:
        known = tokenizer.get_vocab()
        for one in VOCABULARIES:
            if one.tokens and all(known.get(token) == index for token, index in one.tokens.items()):
                return one.name, "tokens"
    named = next((one.name for one in VOCABULARIES if one.models.search(policy)), None)
    return named, None if named is None else "name"


def _local_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a model that is on this machine; `None` for one that is not."""
    path = local_path(source)
    if path.exists():
        return load_tokenizer(path, "policy")
    text = str(source)
    if text.startswith((".", "/", "~")) or text.lower().endswith(".gguf"):
        # says that there is no such file
        find_gguf(source, "policy")
        raise ModelNotFoundError(f"the policy {text!r} is not a directory that exists")
    return _cached_tokenizer(text)


def _guard_tokenizer(guard: KnownGuard) -> Any:
    if guard.id in WORLDS:
        try:
            return load_tokenizer(named_part(guard.id, "process_reward_model"), "guard")
        except SaffronError:
            # the base that it is an adapter on is nowhere
            return None
    return _cached_tokenizer(guard.id)


def _cached_tokenizer(name: str) -> Any:
    """The tokenizer of a model in the hub's cache, without a look at the network."""
    from huggingface_hub import try_to_load_from_cache

    if "/" not in name or name.count("/") > 1 or ":" in name:
        return None
    file = try_to_load_from_cache(name, "tokenizer.json")
    return load_tokenizer(Path(file).parent, "tokenizer") if isinstance(file, str) else None
