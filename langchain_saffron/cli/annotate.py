"""`saffron annotate`: the rewards of every prefix of a corpus."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_saffron.cli.annotators import Models, annotator, over_ray
from langchain_saffron.cli.console import notice
from langchain_saffron.cli.guards import Guard, Safe, Unsafe
from langchain_saffron.cli.options import Device, Dtype
from langchain_saffron.cli.progress import progress_bar
from langchain_saffron.errors import SettingsError

# broken records that are told one by one
_TOLD = 20

FORECAST = "Forecasts"
CANDIDATES = "Candidates"
KITCHEN_NOTE = "the kitchen's toy PRM annotates; --prm takes a real one"


def annotate(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="Conversations: a JSONL, JSON or Parquet file (also .gz), a directory of such, or a dataset saved to "
            "disk. Records hold messages, a prompt and a response, or HH-RLHF's chosen and rejected transcripts.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The directory for the shards; a killed run goes on in it.")],
    prm: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID|MODULE:FUNCTION",
            help="The process reward model: a guard model, a classifier, or a Python function of (prompt, answer) or, "
            "as a conversation_guard, of conversations. Without it the embedded kitchen's.",
        ),
    ] = None,
    guard: Guard = None,
    safe: Safe = None,
    unsafe: Unsafe = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID",
            help="The tokenizer of the MRM to be trained. Functions need it; with it, guards score prefixes as text.",
        ),
    ] = None,
    rollouts: Annotated[
        int | None,
        typer.Option(
            help="Forecast: a prefix's reward is the mean of the PRM's rewards of so many continuations by --policy.",
            rich_help_panel=FORECAST,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="The model that continues, or that names candidates."),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score so many other tokens as well at each place of an answer, the likeliest to --policy: training "
            "is then told of the choices that a search makes.",
            rich_help_panel=CANDIDATES,
        ),
    ] = None,
    candidates_every: Annotated[
        int,
        typer.Option(min=1, help="At every so many places; the others have none.", rich_help_panel=CANDIDATES),
    ] = 1,
    candidates_after: Annotated[
        int,
        typer.Option(
            min=0,
            help="At every so many of those places, score what would follow each candidate, too (two tokens each): "
            "a head learns from it to tell beams apart. 0 for none.",
            rich_help_panel=CANDIDATES,
        ),
    ] = 0,
    rollout_tokens: Annotated[int, typer.Option(help="Of a continuation, at most.", rich_help_panel=FORECAST)] = 24,
    rollout_every: Annotated[
        int, typer.Option(help="A forecast every so many tokens; the others have no reward.", rich_help_panel=FORECAST)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of the continuations.", rich_help_panel=FORECAST)] = 0,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a conversation, from its start.")] = 128,
    turns: Annotated[str, typer.Option(help="Which assistant turns: all or last.")] = "all",
    limit: Annotated[int | None, typer.Option(help="Records from the start of the corpus.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a dataset saved to disk with several.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first broken record.")] = False,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Records in a shard, which a killed run loses at most. By default 500; with candidates as many as "
            "take no longer.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Answers that are scored together.")] = 16,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Do the I-th of N parts: N machines that write to one directory.")
    ] = "1/1",
    workers: Annotated[
        int | None,
        typer.Option(
            "--ray",
            metavar="WORKERS",
            min=1,
            help="So many processes by Ray (extra ray), here or on the cluster that RAY_ADDRESS names. A worker that "
            "dies costs its shard.",
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Score every prefix of the answers in a corpus by a process reward model (PRM).

    The result is what `saffron train` learns from. Run the same command again to go on after an interruption.

    For example:

    saffron annotate corpus.jsonl --out rewards

    saffron annotate hh-rlhf/ --prm meta-llama/Llama-Guard-3-1B --dtype bfloat16 --out rewards

    saffron annotate corpus.jsonl --candidates 4 --policy kitchen --out rewards

    saffron annotate corpus.jsonl --rollouts 4 --policy kitchen --out forecasts
    """
    from langchain_saffron.embedded import KITCHEN
    from langchain_saffron.extras import RAY, TRAINING

    TRAINING.require()
    if workers:
        RAY.require()
    from langchain_saffron.training.annotate import annotate_by
    from langchain_saffron.training.corpus import Corpus
    from langchain_saffron.training.settings import AnnotateSettings, CandidateSettings, RolloutSettings

    settings = AnnotateSettings(
        max_tokens=max_tokens,
        turns=turns,
        limit=limit,
        batch_size=batch_size,
        strict=strict,
        part=part,
        **({} if shard_size is None else {"shard_size": shard_size}),
    )
    if rollouts and candidates:
        raise SettingsError("candidates: forecasts (--rollouts) are made of what was said alone; choose one of them")
    if candidates is None and (candidates_every > 1 or candidates_after):
        raise SettingsError("candidates: --candidates-every and --candidates-after say where: say how many as well")
    if (rollouts is None and candidates is None) != (policy is None):
        raise SettingsError(
            "rollouts: forecasts need both --rollouts and --policy, whose continuations they are of; candidates both "
            "--candidates and --policy, which names them"
        )
    named = CandidateSettings(count=candidates, every=candidates_every, after=candidates_after) if candidates else None
    settings = settings.in_shards_for(named)
    drawn = rollouts and RolloutSettings(count=rollouts, tokens=rollout_tokens, every=rollout_every, seed=seed)
    # a mistake in the corpus should not cost the model's loading
    source = Corpus.open(corpus, split)
    if prm is None:
        notice(KITCHEN_NOTE)
    load = partial(
        annotator,
        Models(
            prm=prm or str(KITCHEN / "prm"),
            guard=guard,
            safe=safe,
            unsafe=unsafe,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            policy=policy,
            rollouts=drawn or None,
            candidates=named,
        ),
        settings,
        prm is None,
    )
    told = 0

    def report(line: str) -> None:
        nonlocal told
        told += 1
        if told <= _TOLD:
            notice(line)
        elif told == _TOLD + 1:
            notice("more broken records are counted, and named in the manifest")

    working = over_ray(load, workers, device) if workers else nullcontext(load())
    records = min(len(source), limit or len(source))
    with working as worker, progress_bar("annotating", records, "rewards/s") as update:
        manifest = annotate_by(worker, source, out, settings, update, report)
    if not manifest["complete"]:
        notice(f"part {part} is done; {out} is complete once all parts are")
        return
    print(f"{_summary(manifest['counts'])} in {out}{_left_out(manifest['counts'])}")


def _summary(counts: dict[str, Any]) -> str:
    said = f"{counts['rewards']:,} rewards of {counts['rows']:,} answers ({counts['safe_share']:.1%} safe)"
    if counts.get("candidates"):
        said += f", and {counts['candidates']:,} of candidates,"
    if counts.get("after"):
        said += f" and {counts['after']:,} of what follows them,"
    return said


def _left_out(counts: dict[str, Any]) -> str:
    said = f"; {counts['broken']:,} broken records skipped" if counts["broken"] else ""
    if counts["too_long"]:
        said += f"; {counts['too_long']:,} records with a prompt beyond --max-tokens"
    return said
