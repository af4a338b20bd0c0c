"""`saffron train`: a multifurcation reward model from annotated data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_saffron.cli.console import notice, quieten
from langchain_saffron.cli.progress import progress_bar

RUN = "The run"
FIT = "The fit"
# options that a head has too; its own defaults hold where they are not given
_OF_HEAD = ("held_out_share", "epochs", "batch_size", "learning_rate", "rank", "precision", "seed", "dtype")


def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="The directory that saffron annotate wrote; or rows of token ids with token-level rewards in Parquet, "
            "JSONL or a dataset saved to disk, in the form of Safety4M.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The MRM's directory; a killed run goes on in it.")],
    on: Annotated[
        str,
        typer.Option(
            metavar="guard|head",
            help="guard: an adapter on --base. head: a small map on the states of the policy that --base names, which "
            "costs no second model.",
        ),
    ] = "guard",
    layer: Annotated[
        int | None,
        typer.Option(help="With --on head: the policy's layer; by default the best of some.", rich_help_panel=FIT),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID",
            help="The model to train (a GGUF file does, too); by default the PRM that annotated the data.",
        ),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Annotated data to measure by; by default a share of the data.")
    ] = None,
    held_out_share: Annotated[float, typer.Option(help="That share.", rich_help_panel=FIT)] = 0.05,
    epochs: Annotated[
        int,
        typer.Option(
            help="Passes over the data; more than a finished training had go on with it.", rich_help_panel=FIT
        ),
    ] = 1,
    batch_size: Annotated[int, typer.Option(help="Conversations a step, over all processes.", rich_help_panel=FIT)] = 4,
    learning_rate: Annotated[float, typer.Option(help="Of the adapter.", rich_help_panel=FIT)] = 5e-4,
    bias_learning_rate: Annotated[
        float | None, typer.Option(help="Of the bias; by default five times the adapter's.", rich_help_panel=FIT)
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the LoRA adapter.", rich_help_panel=FIT)] = 4,
    alpha: Annotated[float, typer.Option(help="The adapter's scale is alpha / rank.", rich_help_panel=FIT)] = 8.0,
    target_modules: Annotated[
        str | None,
        typer.Option(
            help="Layers with an adapter, separated by commas; by default the query and value projections.",
            rich_help_panel=FIT,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="How many of the last layers have an adapter; by default all.", rich_help_panel=FIT),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(help="Of calling held-out prefixes safe, from the safety threshold on.", rich_help_panel=FIT),
    ] = 0.99,
    seed: Annotated[int, typer.Option(rich_help_panel=FIT)] = 0,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(help="Conversations a forward and process; the rest is accumulated.", rich_help_panel=RUN),
    ] = None,
    mixed_precision: Annotated[
        str,
        typer.Option(
            help="no, bf16 or fp16; auto is bf16 where a CPU has instructions for it and the model is no toy.",
            rich_help_panel=RUN,
        ),
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the base's weights.", rich_help_panel=RUN)] = "float32",
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.", rich_help_panel=RUN)] = 200,
    device: Annotated[str | None, typer.Option(help="cpu to leave an accelerator alone.", rich_help_panel=RUN)] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail (exit code 1) where the MRM is not likely to work: low agreement, few tokens, no usable "
            "threshold. It is written all the same.",
            rich_help_panel=RUN,
        ),
    ] = False,
) -> None:
    """Train an MRM: a LoRA adapter and a bias on the PRM, fitted to its rewards of all prefixes.

    Run the same command again to go on after an interruption, or with more --epochs to go on with a finished one.
    Several processes or GPUs: accelerate launch --multi_gpu --num_processes 2 -m langchain_saffron train …

    For example:

    saffron train rewards --out my-mrm

    saffron train rewards --out my-mrm --epochs 3 --batch-size 16 --learning-rate 3e-3

    saffron train rewards --out my-head --on head --base my-policy
    """
    from langchain_saffron.extras import TRAINING

    TRAINING.require()
    from langchain_saffron.training.dataset import RewardData
    from langchain_saffron.training.settings import TrainSettings
    from langchain_saffron.training.train import train as run

    if on not in ("guard", "head"):
        raise typer.BadParameter(f"{on!r} is unknown: guard or head", param_hint="--on")
    if on == "head":
        if base is None:
            raise typer.BadParameter("--on head needs the policy that the head is for", param_hint="--base")
        given = {name: context.params[name] for name in _OF_HEAD if _is_given(context, name)}
        _train_head(data, out, base, held_out, {**given, "layer": layer, "device": device, "strict": strict})
        return
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        learning_rate=learning_rate,
        bias_learning_rate=bias_learning_rate,
        rank=rank,
        alpha=alpha,
        target_modules=tuple(target_modules.split(",")) if target_modules else None,
        layers=layers,
        held_out_share=held_out_share,
        precision=precision,
        seed=seed,
        mixed_precision=mixed_precision,
        dtype=dtype,
        checkpoint_every=checkpoint_every,
        device=device,
        strict=strict,
    )
    quieten(keep_progress=False, keep_warnings=False)
    annotated = RewardData.load(data)
    measured_on = RewardData.load(held_out) if held_out else None
    with progress_bar("training", None, "loss") as update:
        figures = run(
            annotated,
            out,
            base=base,
            held_out=measured_on,
            settings=settings,
            progress=lambda step, steps, loss: update(step, loss, steps),
            report=notice,
        )
    if _is_main():
        print(held_out_line(out, figures))


def _train_head(data: Path, out: Path, policy: str, held_out: Path | None, given: dict[str, Any]) -> None:
    from langchain_saffron.training.dataset import RewardData
    from langchain_saffron.training.settings import HeadSettings
    from langchain_saffron.training.train_head import train_head

    settings = HeadSettings(**given)
    quieten(keep_progress=False, keep_warnings=False)
    annotated, measured_on = RewardData.load(data), RewardData.load(held_out) if held_out else None
    with progress_bar("training", None, "loss") as update:
        figures = train_head(
            annotated,
            out,
            policy=policy,
            held_out=measured_on,
            settings=settings,
            progress=lambda step, steps, loss: update(step, loss, steps),
            report=notice,
        )
    print(held_out_line(out, figures))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def held_out_line(out: Path, figures: dict[str, Any]) -> str:
    """What a training came to, in one line.

    Args:
        out: The MRM's directory.
        figures: The held-out figures.
    """
    threshold, share = figures["safety_threshold"], figures.get("seen_share")
    # older trainings did not record it
    seen = "" if share is None else f", {share:.1%} of held-out tokens seen"
    # only where held-out data have candidates
    choices = f", among candidates {figures['choice_r']:.4f}" if "choice_r" in figures else ""
    auc = "" if figures.get("auc") is None else f", AUC {figures['auc']:.4f}"
    return (
        f"{out}: held-out r {figures['pearson_r']:.4f}{choices}, within ±1 {figures['within_1']:.1%}{auc}, "
        f"mean squared error {figures['mse']:.4f} over {figures['rewards']:,} prefixes, safe from "
        f"{'– (not calibrated)' if threshold is None else format(threshold, '.3f')}{seen}"
    )


def _is_main() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process
