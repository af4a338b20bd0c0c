"""`saffron models`: which guards can steer a policy, and the command for each."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_saffron.cli.console import quieten

if TYPE_CHECKING:
    from langchain_saffron.models.known_guards import KnownGuard

_EVIDENCE = {"compared": "compared", "tokens": "by its tokens", "name": "by its name"}


def models(
    policy: Annotated[
        str | None,
        typer.Argument(
            metavar="[POLICY]",
            help="The policy: a directory, a GGUF file or a Hugging Face id. Nothing is downloaded. Without it the "
            "known guards and their vocabularies.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Say which known guards share a policy's vocabulary, which need their text scored, and the command for each.

    For example:

    saffron models meta-llama/Llama-3.2-1B-Instruct

    saffron models SmolLM2-135M-Instruct.Q4_1.gguf --json
    """
    quieten(keep_progress=False, keep_warnings=False)
    from langchain_saffron.models.known_guards import GUARDS, matching_guards

    if policy is None:
        if as_json:
            print(json.dumps({"guards": [asdict(guard) for guard in GUARDS]}))
            return
        for guard in GUARDS:
            print(f"{guard.id:<40} {guard.vocabulary}{_how(guard)}")
        return
    family, matches = matching_guards(policy)
    if as_json:
        print(json.dumps({"policy": policy, "vocabulary": family, "guards": [asdict(match) for match in matches]}))
        return
    print(f"{policy}: {f'the vocabulary of {family}' if family else 'of no vocabulary that is known here'}")
    for title, shared in (
        ("Share its vocabulary (the reward model is an adapter on the guard):", True),
        ("Have another (their text is scored; the reward model is an adapter on the policy):", False),
        ("Not known to share it (scored as text):", None),
    ):
        found = [match for match in matches if match.shared is shared]
        if found:
            print(f"\n{title}")
        for match in found:
            known = f", {_EVIDENCE[match.evidence]}" if match.evidence else ""
            # a body that predicts no tokens takes no adapter
            place = ": the adapter is on the policy" if shared and match.guard.labels_tokens else ""
            told = f"{match.guard.vocabulary}{known}{_how(match.guard)}{place}"
            print(f"  {match.guard.id} ({told})\n    {match.command}")


def _how(guard: "KnownGuard") -> str:
    """What sets a guard apart from one that is loaded here and asked a question."""
    return ", behind an endpoint" if guard.endpoint else ", labels tokens" if guard.labels_tokens else ""
