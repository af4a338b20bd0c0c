"""`saffron fit`: a reward model for the policy at hand, from the guard at hand, in one command."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_saffron.cli.console import notice, quieten
from langchain_saffron.cli.guards import Safe, Unsafe, guard_prompt, named_function
from langchain_saffron.cli.options import Device, Dtype
from langchain_saffron.cli.progress import progress_bar
from langchain_saffron.cli.train import FIT, held_out_line
from langchain_saffron.errors import SettingsError

ANSWERS = "Its own answers, without a corpus"
FAILING = "A guard that fails"
_UNITS = {"writing answers": "answers/s", "annotating": "rewards/s", "training": "loss"}


def fit(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="The policy: a directory, a GGUF file or a Hugging Face id.")
    ],
    guard: Annotated[
        str,
        typer.Option(
            metavar="PATH|ID|URL|MODULE:FUNCTION",
            help="What scores: a guard model or classifier of any tokenizer, an encoder, an OpenAI-compatible endpoint "
            "(http://…/v1), or a Python function as for saffron annotate.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The MRM's directory; a killed run goes on in it.")],
    corpus: Annotated[
        Path | None,
        typer.Argument(help="Conversations, as for saffron annotate. Without them --prompts.", show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts that the policy answers: .txt with one a line, or records.", rich_help_panel=ANSWERS
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="guard|policy|head",
            help="What the adapter is put on: the guard, if it is a causal LM with the policy's vocabulary, or the "
            "policy itself. By default the guard where that can be. head: a small map on the policy's states instead, "
            "which costs no second model.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID",
            help="In place of the policy's own: another model with its vocabulary, such as a smaller.",
        ),
    ] = None,
    guard_as: Annotated[
        str | None,
        typer.Option(
            help="How the guard is asked, as --guard of saffron annotate: a preset or a JSON file of GuardPrompt."
        ),
    ] = None,
    safe: Safe = None,
    unsafe: Unsafe = None,
    guard_model: Annotated[
        str | None, typer.Option(help="The model that an endpoint is asked for; by default its only one.")
    ] = None,
    attempts: Annotated[
        int, typer.Option(help="How often an endpoint or a function is asked for a reward.", rich_help_panel=FAILING)
    ] = 4,
    skip_failed: Annotated[
        bool,
        typer.Option(
            "--skip-failed",
            help="Leave out, and count, answers without a reward, instead of stopping.",
            rich_help_panel=FAILING,
        ),
    ] = False,
    samples: Annotated[
        int,
        typer.Option(help="Answers to each prompt, plain and behind each prefill.", rich_help_panel=ANSWERS),
    ] = 1,
    prefill: Annotated[
        list[str] | None,
        typer.Option(
            help="How answers begin that the policy continues; may be given several times. By default three.",
            show_default=False,
            rich_help_panel=ANSWERS,
        ),
    ] = None,
    answer_tokens: Annotated[int, typer.Option(help="Of an answer.", rich_help_panel=ANSWERS)] = 96,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a conversation that are annotated, from its start.")] = 128,
    limit: Annotated[int | None, typer.Option(help="Records from the start of the corpus.")] = None,
    candidates: Annotated[
        int,
        typer.Option(
            min=0,
            help="Have the guard also score so many other tokens at each place of an answer, the likeliest to the "
            "policy: training is then told of the choices that a search makes.",
        ),
    ] = 0,
    candidates_after: Annotated[
        int,
        typer.Option(
            min=0,
            help="At every so many places, have it score what would follow each candidate, too: a head learns from it "
            "to tell beams apart. 0 for none.",
        ),
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the data; 1 on the guard, 6 on the policy and of a head.", rich_help_panel=FIT),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Conversations a step, 4; of a head prefixes, 256.", rich_help_panel=FIT)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the adapter; 5e-4 on the guard, 2e-3 on the policy and of a head.", rich_help_panel=FIT),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the LoRA adapter; 4 on the guard, 16 on the policy.", rich_help_panel=FIT)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the answers and the training.", rich_help_panel=FIT)] = 0,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail (exit code 1) where the MRM is not likely to work.", rich_help_panel=FIT),
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make a reward model (MRM) for a policy of any tokenizer from a guard of any kind.

    It has the policy write a corpus (or takes yours), the guard score every prefix of the answers, and fits an adapter
    to the rewards. Run the same command again to go on after an interruption.

    For example:

    saffron fit HuggingFaceTB/SmolLM2-135M-Instruct --guard meta-llama/Llama-Guard-3-1B --prompts prompts.txt --out mrm

    saffron fit my-policy corpus.jsonl --guard http://localhost:8000/v1 --out mrm
    """
    from langchain_saffron.extras import TRAINING

    TRAINING.require()
    from langchain_saffron.models.guard_retries import Retries
    from langchain_saffron.runtime.devices import default_device, default_dtype
    from langchain_saffron.training.fit import fit as run
    from langchain_saffron.training.settings import (
        AnnotateSettings,
        AnswerSettings,
        CandidateSettings,
        HeadSettings,
        TrainSettings,
    )

    if candidates_after and not candidates:
        raise SettingsError("candidates: --candidates-after says where: say how many (--candidates) as well")
    function = None if guard.startswith(("http://", "https://")) else named_function("guard", guard)
    retries = Retries(attempts, skip=skip_failed)
    own = {} if prefill is None else {"prefills": tuple(prefill)}
    given: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "rank": rank, "batch_size": batch_size}
    fitted = {name: value for name, value in given.items() if value is not None}
    device = device or default_device()
    kind = HeadSettings if on == "head" else TrainSettings
    quieten(keep_progress=False, keep_warnings=False)
    with ExitStack() as bars, _guard_as():
        figures = run(
            policy,
            function or guard,
            out,
            corpus=corpus,
            prompts=prompts,
            on=on,  # type: ignore[arg-type]
            base=base,
            guard_prompt=guard_prompt(guard_as),
            safe=safe,
            unsafe=unsafe,
            guard_model=guard_model,
            retries=retries,
            answers=AnswerSettings(samples=samples, max_tokens=answer_tokens, seed=seed, **own),
            annotation=AnnotateSettings(max_tokens=max_tokens, limit=limit),
            candidates=CandidateSettings(count=candidates, after=candidates_after) if candidates else None,
            training=kind(seed=seed, strict=strict, device="cpu" if device == "cpu" else None, **fitted),
            device=device,
            dtype=dtype or default_dtype(device),
            progress=_progress(bars),
            report=notice,
        )  # fmt: skip
    for what, count in retries.counts.items():
        notice(f"the guard: {what.replace('_', ' ')} {count:,}")
    counts = figures["annotation"]
    print(
        f"{counts['rewards']:,} rewards of {counts['rows']:,} answers ({counts['safe_share']:.1%} safe)"
        + (f", and {counts['candidates']:,} of candidates" if counts.get("candidates") else "")
        + (f" and {counts['after']:,} of what follows them" if counts.get("after") else "")
        + (f"; {counts['completed']:,} with a character completed" if counts.get("completed") else "")
        + (f"; {counts['unknown']:,} prefixes without" if counts.get("unknown") else "")
        + (f"; {counts['skipped']:,} answers skipped" if counts.get("skipped") else "")
        + ("; a head on the policy" if figures["on"] == "head" else f"; an adapter on the {figures['on']}")
    )
    print(held_out_line(out, figures))


@contextmanager
def _guard_as() -> Iterator[None]:
    """What models are told about `guard=`, how one is asked, is `--guard-as` here: `--guard` names the model."""
    try:
        yield
    except SettingsError as error:
        if not str(error).startswith("guard: how is "):
            raise
        raise SettingsError(f"guard_as: {str(error).removeprefix('guard: ')}") from error


def _progress(bars: ExitStack) -> Callable[[str, int, int, float], None]:
    """One bar a phase; the one before ends."""
    known: dict[str, Any] = {}

    def update(phase: str, done: int, total: int, value: float) -> None:
        if phase not in known:
            bars.close()
            known[phase] = bars.enter_context(progress_bar(phase, total, _UNITS[phase]))
        known[phase](done, value, total)

    return update
