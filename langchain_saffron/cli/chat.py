"""`saffron chat`: one prompt, or a conversation."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_saffron.cli.console import notice, option_names
from langchain_saffron.cli.options import (
    MODELS,
    ChatTemplateFile,
    Device,
    Dtype,
    Model,
    QuantizationOption,
    RewardBase,
    RewardModel,
    load_chat,
)
from langchain_saffron.cli.trace_pages import TracePages
from langchain_saffron.settings import Effort, Mask, OnExhausted, Verify

DECODING = "Decoding"
BUDGET = "Compute budget of an answer"


def chat(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What to ask; - reads it from standard input. Without it, an interactive chat."
        ),
    ] = None,
    model: Model = None,
    reward_model: RewardModel = None,
    reward_base: RewardBase = None,
    process_reward_model: Annotated[
        str | None,
        typer.Option(
            "--prm",
            metavar="PATH|ID",
            help="The process reward model that --verify asks: a guard model or a classifier. The embedded models "
            "bring their own.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: QuantizationOption = None,
    chat_template: ChatTemplateFile = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    prefill: Annotated[
        str | None, typer.Option(help="How the answer begins; the model goes on from there. Not printed.")
    ] = None,
    effort: Annotated[
        Effort | None,
        typer.Option(
            metavar="EFFORT",
            help="How hard to search: off is plain decoding; low, medium, high and max keep 1, 4, 16 and 64 beams, "
            r"auto as many as the danger asks, 16 at most. \[default: medium]",
            rich_help_panel=DECODING,
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Beams; overrides what --effort says.", rich_help_panel=DECODING)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer.", rich_help_panel=DECODING)] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Above 0, the search samples.", rich_help_panel=DECODING)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.", rich_help_panel=DECODING)] = None,
    refusal_threshold: Annotated[
        float | None,
        typer.Option(
            help="Say nothing whose predicted safety reward lies below this; refuse instead.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    mask: Annotated[
        Mask | None,
        typer.Option(
            metavar="MASK",
            help="Tokens that the reward model's training never showed: strict keeps away from them, soft takes them "
            r"for as safe as what stands before them, off trusts its word. \[default: auto]",
            rich_help_panel=DECODING,
        ),
    ] = None,
    verify: Annotated[
        Verify | None,
        typer.Option(
            metavar="MODEL",
            help="prm: a process reward model reads every sentence before it is shown, and overrules the reward model.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    max_tflops: Annotated[
        float | None, typer.Option(help="Forward TFLOP of both models.", rich_help_panel=BUDGET)
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds.", rich_help_panel=BUDGET)] = None,
    max_reward_calls: Annotated[
        int | None, typer.Option(min=1, help="Sequences scored by the reward model.", rich_help_panel=BUDGET)
    ] = None,
    on_budget: Annotated[
        OnExhausted | None,
        typer.Option(
            metavar="ACTION",
            help="narrow the search so that the answer fits, stop with the best so far, or refuse. "
            r"\[default: narrow]",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON at the end: text, finish_reason, stats.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            dir_okay=False,
            help="Write a page on which to walk the search: what it looked at, took and dropped, and why. In a chat, "
            "that of the last answer.",
        ),
    ] = None,
) -> None:
    """Answer one prompt, or chat.

    Text is streamed to stdout once the search can no longer discard it.
    Notices, and a last line with reward and compute, go to stderr.

    For example:

    saffron chat "How do I make tomato soup?"

    saffron chat "Which herb goes well with leek?" --effort high --max-seconds 5

    echo "Set a timer for 20 minutes for the pie." | saffron chat - --json

    saffron chat --model my-policy --reward-model my-mrm

    saffron chat "How do I make tomato soup?" --trace soup.html

    In a chat: /effort high, /clear, /help and /exit.
    Ctrl-C stops an answer, Ctrl-D leaves.
    """
    if prompt is None and as_json:
        raise typer.BadParameter("--json needs a PROMPT, or - to read it from standard input")
    if prompt == "-":
        prompt = sys.stdin.read().rstrip("\r\n")
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("the prompt is empty")
    pages = None
    if trace is not None:
        if effort == "off":
            raise typer.BadParameter("--trace shows a search, and --effort off does not search")
        pages = TracePages(trace)
    options = {
        "model": model,
        "reward_model": reward_model,
        "reward_base": reward_base,
        "process_reward_model": process_reward_model,
        "device": device,
        "dtype": dtype,
        "quantization": quantization,
        "chat_template": chat_template,
        "effort": effort,
        "width": width,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "refusal_threshold": refusal_threshold,
        "mask": mask,
        "verify": verify,
        "max_tflops": max_tflops,
        "max_seconds": max_seconds,
        "max_reward_calls": max_reward_calls,
        "on_budget": on_budget,
    }
    chat_model = load_chat(options, told=not as_json)
    from langchain_saffron.cli.session import Session, summary

    session = Session(
        chat_model, system=system, prefill=prefill or "", names=option_names(context.command), pages=pages
    )
    if prompt is None:
        session.run()
    elif as_json:
        with pages.recording(chat_model) if pages else nullcontext():
            record = as_record(session.chat.invoke(session.messages(prompt)))
        print(json.dumps(record), flush=True)
    else:
        notice(summary(session.answer(prompt)))


def as_record(message: Any) -> dict[str, Any]:
    """What `--json` prints of an answer."""
    metadata = message.response_metadata
    return {"text": message.text, "finish_reason": metadata["finish_reason"], "stats": metadata["saffron"]}
